"""The base models, and how they answer with letters."""
