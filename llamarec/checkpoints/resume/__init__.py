"""Decides what a resume keeps, applies and refuses. Loads no model."""
