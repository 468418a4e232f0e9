"""Recommendations from a run: what its retriever proposes, in the order of its ranker."""
