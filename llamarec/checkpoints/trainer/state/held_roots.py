"""Where a walk over held objects starts, and what it does not enter."""

from __future__ import annotations

from collections import Counter
from types import FunctionType
from typing import Final

from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from llamarec.checkpoints.trainer.samples.object_parts import is_leaf
from llamarec.checkpoints.trainer.state.held_objects import CONTAINERS, is_entered
from llamarec.checkpoints.trainer.state.trainer_attributes import names_set_by
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped

_GIVEN: Final = ("compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics")
# Saved by itself, or data.
_NOT_ENTERED: Final = (
    *("train_dataset", "eval_dataset", "data_collator", "processing_class", "accelerator", "args", "state", "control"),
    *("callback_handler", "optimizer", "lr_scheduler", "_resumable"),
)
_LIBRARIES: Final = ("transformers.", "trl.", "llamarec.checkpoints.")


def roots_of(trainer: LiveTrainer) -> dict[str, object]:
    """The model, the functions that a Trainer was given, what its subclass holds, and the program's callbacks."""
    roots: dict[str, object] = {"model": unwrapped(trainer)}
    roots |= {name: getattr(trainer, name, None) for name in _GIVEN}
    own = names_set_by(Trainer)
    roots |= {
        f"trainer.{name}": value
        for name, value in list(vars(trainer).items())
        if name not in own and name not in _NOT_ENTERED and not isinstance(value, FunctionType) and is_entered(value)
    }

    numbers: Counter[str] = Counter()
    for callback in trainer.callback_handler.callbacks:
        if is_own(callback):
            name = type(callback).__name__
            roots[f"{name}[{numbers[name]}]"] = callback
            numbers[name] += 1

    return roots


def may_be_roots(trainer: LiveTrainer) -> list[object]:
    """Objects that the roots are among, without a look into them."""
    attributes = [value for value in vars(trainer).values() if not is_leaf(value) and type(value) not in CONTAINERS]
    return [unwrapped(trainer), *attributes, *trainer.callback_handler.callbacks]


def not_entered(trainer: LiveTrainer) -> list[object]:
    """Objects that the roots lead to and that are saved by themselves."""
    found = [vars(trainer).get(name) for name in _NOT_ENTERED]
    return [trainer, *found, *(one for one in trainer.callback_handler.callbacks if not is_own(one))]


def is_own(callback: TrainerCallback) -> bool:
    """Whether a callback is the program's, and nobody else saves what it keeps."""
    return not isinstance(callback, ExportableState) and not type(callback).__module__.startswith(_LIBRARIES)
