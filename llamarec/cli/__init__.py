"""The `llamarec` command: one module per verb. Help needs neither torch nor transformers."""
