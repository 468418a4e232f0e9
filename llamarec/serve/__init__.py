"""Recommendations over HTTP: requests that come at the same time are answered in one forward pass."""
