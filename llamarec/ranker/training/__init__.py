"""A ranker's training, from the options to the final test."""
