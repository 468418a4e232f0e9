"""What the user's program gave to its Trainer or made itself: options, fingerprints, optimizers, overrides."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.current_process import HANDED_AS_CLASS, CustomOptimizers, hyperparameters_of
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.trainer.fingerprints import base_model_of, fingerprints_of
from llamarec.checkpoints.trainer.state.stateful import Stateful
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments of `ResumableMixin`; explained there."""

    config: CheckpointConfig = field(default_factory=CheckpointConfig)
    fingerprints: Mapping[str, object] = field(default_factory=dict)
    own_options: Mapping[str, object] = field(default_factory=dict)
    given: Mapping[str, object] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    after_save: Callable[[Path], object] | None = None
    choice: ResumeChoice | None = None
    stateful: Mapping[str, Stateful] = field(default_factory=dict)


class Program:
    """The user's program as a resume sees it.

    Args:
        trainer: Just constructed.
        options: What the program gave.
        library: Classes that are not the program's: the Trainer, and those of this package.
    """

    def __init__(self, trainer: LiveTrainer, options: Options, library: tuple[type, ...]) -> None:
        self._trainer, self.options, self._library = trainer, options, library
        self._given_scheduler = trainer.lr_scheduler
        self._base_model = ""
        self.makes_optimizer = trainer.optimizer is not None
        """Whether an optimizer was passed to the Trainer."""

    def overrides(self, method: str) -> bool:
        """Whether a class of the program has this method, on either side of the mixin."""
        return any(method in vars(one) for one in type(self._trainer).__mro__ if one not in self._library)

    def custom_optimizers(self) -> CustomOptimizers:
        """Optimizer and scheduler that are not the Trainer's: given to it, or made by an overridden method."""
        optimizer = self._trainer.optimizer if self.makes_optimizer else None
        # Accelerate wraps it.
        optimizer = getattr(optimizer, "optimizer", optimizer)
        group = optimizer.param_groups[0] if optimizer is not None else None
        name = self._maker_of(optimizer, "create_optimizer")
        rate = float(group.get("initial_lr", group["lr"])) if group is not None else None

        handed = self._trainer.optimizer_cls_and_kwargs
        if handed is not None and not name:
            name, rate = f"{handed[0].__name__}{HANDED_AS_CLASS}", _rate_of(*handed)

        scheduler = self._given_scheduler
        return CustomOptimizers(name, self._maker_of(scheduler, "create_scheduler"), rate, _curve_of(scheduler))

    def _maker_of(self, given: object | None, method: str) -> str:
        if given is not None:
            return type(given).__name__

        return method if self.overrides(method) else ""

    def hyperparameters(self, *, given_eval_batch: int = 0) -> dict[str, object]:
        """Every training argument and the program's own options, as plain values.

        Args:
            given_eval_batch: Batch size of an evaluation as the user asked for it, where memory has made it smaller.
        """
        names = self.custom_optimizers().names()
        found = hyperparameters_of(self._trainer.args, {**self.options.own_options, **names})
        if given_eval_batch:
            found["per_device_eval_batch_size"] = given_eval_batch

        return found

    def fingerprints(self) -> dict[str, object]:
        """What identifies the run, as a manifest gives it back: tuples are lists there."""
        trainer, model = self._trainer, unwrapped(self._trainer)
        # Once: training itself may align the special tokens of the model's configuration with the tokenizer's.
        self._base_model = self._base_model or base_model_of(model)
        found = fingerprints_of(model, trainer.train_dataset, seed=trainer.args.seed, by_epoch=trainer.samples_by_epoch)

        own: dict[str, object] = json.loads(
            json.dumps({"base_model": self._base_model, **found, **self.options.fingerprints}, default=str)
        )
        return own


def _rate_of(kind: Callable[..., object], options: Mapping[str, object]) -> float | None:
    """The learning rate that an optimizer will be made with; None where that is not known."""
    default = inspect.signature(kind).parameters.get("lr")
    rate = options.get("lr", default.default if default is not None else None)
    return float(rate) if isinstance(rate, float | int | torch.Tensor) else None


def _curve_of(scheduler: LRScheduler | None) -> Callable[[float], float] | None:
    """The factor on the learning rate by optimizer step, where it is a function of that."""
    if not isinstance(scheduler, LambdaLR):
        return None

    # Torch declares whole steps; the curves take fractions too.
    return cast(Callable[[float], float], scheduler.lr_lambdas[0])
