"""The training loop that saves, stops and restores at the edges of steps."""
