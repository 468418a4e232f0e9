"""Samples by key: their order, and random draws that depend on (seed, epoch, index) alone.

rng          random states of the global generators; streams by key
object_walk  objects that data hold, found without running their code
generators   generators among them, keyed as the global ones are
sampling     data sets, collators and samplers by key
repeatable   data that give two answers to one question, refused before the first step
"""
