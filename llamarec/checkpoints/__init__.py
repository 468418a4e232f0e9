"""Checkpoints that survive a kill at any byte, for any Hugging Face Trainer; knows nothing of recommendation.

    from llamarec.checkpoints import CheckpointConfig, ResumableTrainer   # instead of transformers.Trainer

config   options beside those of `TrainingArguments`
storage  what is on disk; no torch
backup   verified copies, anywhere that fsspec reaches; no torch
mirror   a copy of the run that outlives the machine; no torch
resume   decides what a resume keeps, applies and refuses; loads no model
trainer  the training loop, saving and restoring

Imports run from `trainer` to `mirror`, to `resume` and `backup`, and from there to `storage`. Of the rest of the
package these modules import only `errors` and `credentials`. The rules are in pyproject.toml (import-linter).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamarec.checkpoints.config import CheckpointConfig
    from llamarec.checkpoints.trainer.resumable import ResumableMixin, ResumableTrainer
    from llamarec.checkpoints.trainer.signals import Interrupted
    from llamarec.checkpoints.trainer.state.stateful import Stateful

__all__ = ["CheckpointConfig", "Interrupted", "ResumableMixin", "ResumableTrainer", "Stateful"]

_HOMES = {
    "CheckpointConfig": "config",
    "Interrupted": "trainer.signals",
    "ResumableMixin": "trainer.resumable",
    "ResumableTrainer": "trainer.resumable",
    "Stateful": "trainer.state.stateful",
}


def __getattr__(name: str) -> object:
    """Imported when asked for: the command line needs neither torch nor transformers."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")

    from importlib import import_module

    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ImportError as error:
        # A version that has moved a module would otherwise end in a traceback from inside of it.
        if (error.name or "").partition(".")[0] not in ("transformers", "accelerate"):
            raise
        from llamarec.checkpoints.trainer.guards.hooks import unsupported

        raise unsupported([str(error)]) from error
