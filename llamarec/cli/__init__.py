"""The `llamarec` command: one module per verb, none of which imports torch or transformers to show its help."""
