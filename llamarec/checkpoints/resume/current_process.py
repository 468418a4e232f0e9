"""The process that resumes: its arguments, and the optimizer and scheduler that the program made itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from transformers import TrainingArguments

from llamarec.checkpoints.resume.compatibility import FingerprintSources

OWN_OPTIMIZER, OWN_SCHEDULER = "own_optimizer", "own_scheduler"
"""Hyperparameters that name the class of the program's own optimizer and scheduler; empty if the Trainer made them."""

HANDED_AS_CLASS = " (optimizer_cls_and_kwargs)"
"""Suffix of an optimizer's name if the Trainer was given its class instead of an optimizer."""


@dataclass(frozen=True)
class CustomOptimizers:
    """Optimizer and scheduler that a program made itself instead of leaving them to the Trainer.

    Attributes:
        optimizer: Class of the optimizer; empty if the Trainer made it.
        scheduler: Class of the scheduler; empty if the Trainer made it.
        base_rate: Initial learning rate of the optimizer; None if it is not known.
        curve: Factor on the learning rate by optimizer step; None if it is not a function of the step.
    """

    optimizer: str = ""
    scheduler: str = ""
    base_rate: float | None = None
    curve: Callable[[float], float] | None = None

    def names(self) -> dict[str, str]:
        """The classes by name, for the hyperparameters of a manifest."""
        return {OWN_OPTIMIZER: self.optimizer, OWN_SCHEDULER: self.scheduler}


@dataclass(frozen=True)
class CurrentProcess:
    """The process that resumes, as far as a resume depends on it.

    Attributes:
        args: Training arguments.
        num_samples: Samples per epoch; None = as in the checkpoint.
        hyperparameters: Training arguments and the program's own options, as plain values.
        defaults: This command's defaults of those options whose values come from the checkpoint.
        fingerprints: Values that identify the run.
        allowed: Names of values that may differ.
        custom: Optimizer and scheduler of the program; their classes are among the hyperparameters too.
        origins: Sources of the fingerprints.
        samples_per_step: Samples per optimizer step; 0 = as the arguments say.
        is_preview: Whether nothing is trained, so that the program's own classes are not imported.
    """

    args: TrainingArguments
    num_samples: int | None
    hyperparameters: Mapping[str, object]
    defaults: Mapping[str, object]
    fingerprints: Mapping[str, object]
    allowed: frozenset[str]
    custom: CustomOptimizers = CustomOptimizers()
    origins: FingerprintSources = field(default_factory=FingerprintSources)
    samples_per_step: int = 0
    is_preview: bool = False

    @property
    def has_own_scheduler(self) -> bool:
        """Whether the program made the scheduler itself."""
        return bool(self.hyperparameters.get(OWN_SCHEDULER))

    @property
    def has_own_optimizer(self) -> bool:
        """Whether the program made the optimizer itself."""
        return bool(self.hyperparameters.get(OWN_OPTIMIZER))

    @property
    def batch(self) -> int:
        """Samples per optimizer step."""
        return self.samples_per_step or effective_batch(self.args)


def effective_batch(args: TrainingArguments) -> int:
    """Samples per optimizer step, over micro-batches and processes."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def hyperparameters_of(args: TrainingArguments, own_options: Mapping[str, object]) -> dict[str, object]:
    """Every training argument and a program's own options, as plain values."""
    content: dict[str, object] = json.loads(args.to_json_string())
    return {**content, **json.loads(json.dumps(dict(own_options), default=str))}
