"""Verified copies of checkpoints, anywhere that fsspec reaches. Needs no torch."""
