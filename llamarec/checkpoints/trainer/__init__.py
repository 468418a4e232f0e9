"""The training loop that saves, stops and restores at step boundaries: objects that one mixin holds.

resumable              ResumableTrainer, ResumableMixin: the public face, and the Trainer's hooks, which delegate
training               the objects, and one `train()` from start to end
trainer_access         the Trainer as the objects see it: every attribute and method of it that they use
program, fingerprints  what the user's program gave or made itself; what identifies a run
mirroring              the mirror: fetched from before the start, kept in the background
start_record    which starts came to nothing
starting               the folder locked, a resume decided, the history continued
run_state              what one training knows of itself, and which saves are due
restoring              a checkpoint into the Trainer's state
dataloader             micro-batches of this process, from any position
loop                   the steps of an epoch
step                   one optimizer step: gradients, then the update
divergence             losses, gradients and weights that are not finite
out_of_memory          smaller micro-batches, an update undone, advice
step_boundary          where all state belongs together, and the way back there
evaluation, undo       an evaluation repeated in smaller batches; what its first try had changed is put back
worker_signals         workers leave signals to the training
stopping, signals      a training that ends before its time; requests to stop
console                lines for the user
output_streams         streams whose failures end nothing
callback_output        bars and trackers whose failures end nothing

distributed            several processes: what they tell each other, and what they have in common
guards                 what is needed of transformers, and which overrides of a subclass count
samples                the order of samples, and random draws that depend on their keys alone
saves                  what is saved and when, written in the background, read back once
state                  weights, optimizer and schedule: what a checkpoint holds of them, and the way back

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
