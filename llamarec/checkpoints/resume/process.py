"""This process, as far as a resume is concerned: its arguments, and what the program made itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from llamarec.checkpoints.resume.compatibility import FingerprintSources

OWN_OPTIMIZER, OWN_SCHEDULER = "own_optimizer", "own_scheduler"
"""Names, among the hyperparameters, of what the program made itself; empty where the Trainer made it."""

HANDED_AS_CLASS = " (optimizer_cls_and_kwargs)"
"""Follows the name of an optimizer's class that the Trainer was given instead of an optimizer."""


@dataclass(frozen=True)
class CustomOptimizers:
    """What a program made itself instead of leaving it to the Trainer.

    Attributes:
        optimizer: Its class; empty: the Trainer's.
        scheduler: Its class; empty: the Trainer's.
        base_rate: The optimizer's learning rate as it was made; None where that is not known.
        curve: The scheduler's factor by optimizer step, where it is a function of that.
    """

    optimizer: str = ""
    scheduler: str = ""
    base_rate: float | None = None
    curve: Callable[[float], float] | None = None

    def names(self) -> dict[str, str]:
        """For the hyperparameters of a manifest."""
        return {OWN_OPTIMIZER: self.optimizer, OWN_SCHEDULER: self.scheduler}


@dataclass(frozen=True)
class CurrentProcess:
    """This process, as far as a resume is concerned.

    Attributes:
        args: Its training arguments.
        num_samples: Of an epoch; None = as in the checkpoint.
        hyperparameters: Arguments and the program's own options, as plain values.
        defaults: Of this command, for what was taken over from the checkpoint instead.
        fingerprints: What identifies the run.
        allowed: Names that may differ.
        handed: What the program made itself; its names are among the hyperparameters too.
        origins: Of the fingerprints.
        is_preview: Nothing will be trained here, so the program's own classes are not known.
    """

    args: TrainingArguments
    num_samples: int | None
    hyperparameters: Mapping[str, Any]
    defaults: Mapping[str, Any]
    fingerprints: Mapping[str, Any]
    allowed: frozenset[str]
    handed: CustomOptimizers = CustomOptimizers()
    origins: FingerprintSources = field(default_factory=FingerprintSources)
    is_preview: bool = False

    @property
    def has_own_scheduler(self) -> bool:
        """Whether the learning rate is the program's own business."""
        return bool(self.hyperparameters.get(OWN_SCHEDULER))

    @property
    def has_own_optimizer(self) -> bool:
        """Whether the optimizer is."""
        return bool(self.hyperparameters.get(OWN_OPTIMIZER))

    @property
    def batch(self) -> int:
        """Samples per optimizer step."""
        return effective_batch(self.args)


def effective_batch(args: TrainingArguments) -> int:
    """Samples per optimizer step, over micro-batches and processes."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def hyperparameters_of(args: TrainingArguments, own_options: Mapping[str, Any]) -> dict[str, Any]:
    """Every training argument and a program's own options, as plain values."""
    content: dict[str, Any] = json.loads(args.to_json_string())
    return {**content, **json.loads(json.dumps(dict(own_options), default=str))}
