"""Trainings of `tests.resume.training` in the test's own process, stopped where a test wants."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.trainer.signals import Interrupted
from tests.resume.training import make_trainer

QUIET: dict[str, Any] = {"eval_strategy": "no", "load_best_model_at_end": False, "logging_steps": 1}
"""Without validation, so that a log of samples holds those of the training only."""


def kill_self(*names: str) -> Callable[[], None]:
    """Sends signals to this process, as a scheduler or a user would; SIGTERM without a name."""

    def send() -> None:
        for name in names or ("SIGTERM",):
            signal.raise_signal(getattr(signal, name))

    return send


class At(TrainerCallback):
    """Does something at an event of a step: by default asks for a stop, as a scheduler would.

    Args:
        step: As the Trainer counts at the event: done steps.
        event: Name of a callback's method.
        action: Called once, when it is time.
    """

    def __init__(self, step: int, event: str = "on_step_end", action: Any = None) -> None:
        # A flag would be part of the training's state.
        self._step, self._done = step, threading.Event()
        self._action = action or kill_self()
        setattr(self, event, self._act)

    def _act(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step and not self._done.is_set():
            self._done.set()
            self._action()


class Watch(TrainerCallback):
    """Keeps what every optimizer step was made with."""

    def __init__(self) -> None:
        self.groups: list[dict[str, Any]] = []
        self.gradients: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, group = kwargs["model"], kwargs["optimizer"].param_groups[0]
        self.groups.append({name: value for name, value in group.items() if name != "params"})
        self.gradients.append(_flat(p.grad for p in model.parameters() if p.requires_grad))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.weights.append(_flat(p for p in kwargs["model"].parameters() if p.requires_grad))


def _flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1).clone() for tensor in tensors])


def quiet_trainer(folder: Path, config: CheckpointConfig | None = None, **kwargs: Any) -> Any:
    """As `make_trainer`, without validation."""
    trainer = make_trainer(folder, config, **{**QUIET, **kwargs})
    trainer.remove_callback(EarlyStoppingCallback)
    return trainer


def stopped(trainer: Any, step: int, resume: Any = None, *, event: str = "on_step_end") -> Interrupted:
    """Trains until a signal after so many steps."""
    trainer.add_callback(At(step, event))
    with pytest.raises(Interrupted) as stop:
        trainer.train(resume)
    return stop.value


def samples_in(log: Path) -> list[int]:
    """Indices of the samples that were collated, in order."""
    return [int(word) for word in log.read_text(encoding="utf-8").split()] if log.exists() else []


def epoch_orders(trainer: Any, num_epochs: int, num_samples: int = 50) -> list[int]:
    """Indices of the samples that whole epochs consist of, in order."""
    return [int(i) for epoch in range(num_epochs) for i in trainer.epoch_order(epoch, num_samples)]


def rates(trainer: Any) -> dict[int, float]:
    """Learning rate of every step, as logged."""
    return {row["step"]: row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row}
