"""The training loop that saves, stops and restores at the boundaries of steps.

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
