"""The options of the ranker's command line, and where their values come from."""
