"""A run's model for others: an adapter or merged weights, with tokenizer, prompt, fusion and a model card."""
