"""The training loop that saves, stops and restores at the boundaries of steps.

resumable                  the Trainer, and the mixin for other Trainers
hooks, versions            what is needed of transformers, and what differs between its versions
loop                       the training loop, in samples
step_boundary, step_edge   moments at which all state belongs together
dataloader, sampling       the order of samples, and batches from any position
rng                        random states
evaluation                 validations inside a training
distributed                several processes in one step
out_of_memory              smaller micro-batches when memory runs out
signals                    requests to stop
snapshot, writer, saving   from the state of a step to a checkpoint, in the background
restoring, weights         from a checkpoint to a training that continues
fingerprints               what identifies base model, adapter and data
shared_state, temporarily  what the mixins share; attributes set for a while

`ResumableTrainer` and `ResumableMixin` can be imported from here too. They are loaded when they are asked for, so that
`signals` and `writer` stay free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamarec.checkpoints.trainer.resumable import ResumableMixin, ResumableTrainer

__all__ = ["ResumableMixin", "ResumableTrainer"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")

    return getattr(import_module(f"{__name__}.resumable"), name)
