"""Ranks in, figures out: metrics, paired bootstrap intervals, the side-by-side table. Knows no model."""
