"""Base models with LoRA that score letters.

base_models     loaded by hub name, by folder or embedded, with LoRA put on
tiny            the embedded random model for tests and demonstrations
foreign_code    refuses base models that come with code of their own
hub             whether the Hugging Face Hub can be reached
quantization    4 bits through bitsandbytes
letter_model    a forward pass that scores letters, not the vocabulary
items           user and item vectors instead: a history scores the whole catalogue
last_layer      the last layer, cut to the answer's position
dropout         fast dropout masks on a CPU
known_layers    which layers may be computed otherwise than by their own modules
cpu             prompt by prompt on a CPU, with a backward pass of its own
"""
