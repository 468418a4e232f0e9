"""What a fine-tuning will need, said before anything is loaded: memory, time, and the choices that follow from them.

shape    weights, bytes and operations of a Llama-like model, from its config.json
lengths  how long the prompts are
setup    how the model is loaded and trained
memory   the peak of training and evaluation
rows     the same of prompts that go one by one on a processor
device   what there is to fit into
speed    seconds per step
plan     the decision, as text and as a dictionary
"""
