"""Samples by key: their order, and random draws that depend on (seed, epoch, index) alone.

rng              random states of the global generators; streams by key
object_parts     what an object holds, by kind
object_walk      objects that data and a training hold, found without running their code
generator_kinds  one generator of any kind: its state, its seed
generators       generators that data hold, keyed as the global ones are
random_states    generators that a training draws from, global or held, with their states in the checkpoint
sampler_order    orders that a sampler of the program gives
sampling         data sets, collators and samplers by key
recent_batches   digests of the micro-batches trained on last, drawn again at a save and after a resume
data_states      passed objects that the data go by, at the time of a draw
repeatable       data that give two answers to one question, refused before the first step
"""
