"""Trained rankers on disk: found, loaded, served."""
