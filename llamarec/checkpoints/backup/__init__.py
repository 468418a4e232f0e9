"""Verified copies of checkpoints, anywhere that fsspec reaches. Needs no torch.

stores    folders and object stores
contents  the step, files and manifest of a checkpoint; trusts nothing in it
copies    backup and restore
"""
