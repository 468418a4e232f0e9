"""Speed, memory and quality of the ranker."""
