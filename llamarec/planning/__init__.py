"""What a fine-tuning will need, computed before anything is loaded: memory, time, and the choices that follow.

shape              weights, bytes and operations of a Llama-like model, from its config.json
lengths            how long the prompts are
setup              how the model is loaded and trained
memory             the peak of training and evaluation
per_prompt_memory  the same for prompts that are computed one by one on a CPU
device             the memory that is available
speed              seconds per step
choice             precision, checkpointing and micro-batch that fit
plan               the decision, as text and as a dictionary
cluster_options    the machines of a job, as flags
failures           what failures cost, and how often to save
save_cost          a save, measured
cluster            the plan on several machines that fail
"""
