"""What callbacks ask for in some processes only, and metrics: one answer for all."""

from __future__ import annotations

from typing import Any, Final

from llamarec.checkpoints.trainer.distributed.agreement import any_process, from_first_process
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer

FLAGS: Final = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")
"""Of the Trainer's control: what callbacks ask for."""


def agree_on_control(trainer: LiveTrainer, operation: str) -> None:
    """What a callback asks for in any process, all do: to log, evaluate, save, end the epoch or the training.

    Args:
        trainer: The live Trainer; its control changes.
        operation: As messages name it.
    """
    if trainer.args.world_size == 1:
        return

    control = trainer.control
    agreed = any_process(trainer.args, operation, *(bool(getattr(control, name)) for name in FLAGS))
    for name, value in zip(FLAGS, agreed, strict=True):
        setattr(control, name, value)


def agreed_metrics(trainer: LiveTrainer, operation: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """The first process's metrics, which decide in all of them: the best model, patience, a schedule's rates."""
    return from_first_process(trainer.args, operation, metrics)
