"""Evaluation from ranks alone: metrics, paired bootstrap intervals, tables. Uses no model."""
