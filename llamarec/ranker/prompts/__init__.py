"""From items and titles to the tokens that the language model reads."""
