"""The base models, and how they answer with letters.

base_models   by hub name, by folder, or embedded; with LoRA
tiny          the embedded random Llama
hub           whether the hub can be reached
quantization  weights in 4 bits
letter_model  a forward pass that scores letters instead of the vocabulary
last_layer    the last layer, whose feed-forward part runs at the answer's position only
known_layers  which decoder layers are computed by this package itself
dropout       dropout for LoRA's inputs on a CPU
cpu           training and scoring on a CPU, prompt by prompt
"""
