"""Checkpoints that survive a kill at any byte, for any Hugging Face Trainer; knows nothing of recommendation.

    from llamarec.checkpoints import CheckpointConfig, ResumableTrainer   # in the place of transformers.Trainer

layout         names on disk
durable        written, synced, renamed: the only module that touches a checkpoint's bytes
manifest       what makes a folder a checkpoint; docs/checkpoint-format.md specifies it
publish        staging -> manifest -> one rename; deleting; clearing up after a kill
integrity      is this folder a checkpoint that can be resumed?
discovery      which checkpoints there are, and which one is meant
former         the run before a restart, which is not meant
retention      which ones to delete
space, disk_use, lock, signals   room on the disk, one run per folder, requests to stop
stores, contents, backup         verified copies, anywhere that fsspec reaches
position, schedule               where in the data and in the learning rate a step is: pure arithmetic
randomness, loading, memory      random states; files that may not execute anything; out of memory
compatibility, plan              what a resume keeps, applies and refuses; what is said before the first step
snapshot, saver                  a step's state copied from memory; written in the background
temporarily, parts               values set for a while; what the mixins of the Trainer see of each other
edges, together                  where a step is whole; several processes on one step
evaluating, feeding, loop, saving, weights, resuming         the other mixins
trainer                          the Trainer

Nothing above `randomness` imports torch, so listing and verifying stay fast. Of the package it imports only `errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamarec.checkpoints.config import CheckpointConfig
    from llamarec.checkpoints.trainer.resumable import ResumableMixin, ResumableTrainer
    from llamarec.checkpoints.trainer.signals import Interrupted

__all__ = ["CheckpointConfig", "Interrupted", "ResumableMixin", "ResumableTrainer"]

_HOMES = {
    "CheckpointConfig": "config",
    "Interrupted": "trainer.signals",
    "ResumableMixin": "trainer.resumable",
    "ResumableTrainer": "trainer.resumable",
}


def __getattr__(name: str) -> Any:
    """Imported when asked for: the command line needs neither torch nor transformers."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
