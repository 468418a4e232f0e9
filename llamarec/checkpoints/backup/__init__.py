"""Verified copies of checkpoints, anywhere that fsspec reaches. Needs no torch.

stores    folders and object stores
contents  what a checkpoint consists of; nothing in it is trusted
copies    copying there and back
"""
