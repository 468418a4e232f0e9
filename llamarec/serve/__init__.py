"""Recommendations over HTTP; simultaneous requests share one forward pass."""
