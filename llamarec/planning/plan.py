"""A plan: the choice, its duration, and both as text and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from llamarec.checkpoints.storage.readable_units import readable
from llamarec.planning.choice import RunChoice
from llamarec.planning.device import Device
from llamarec.planning.lengths import Lengths
from llamarec.planning.shape import ModelShape
from llamarec.planning.speed import Speed, seconds_of_pass

_SHORT: Final = 0.02


@dataclass(frozen=True)
class Work:
    """The work of a run.

    Attributes:
        steps: Training steps.
        validations: Number of validations.
        validation_prompts: Prompts of one validation.
        test_prompts: Prompts of the test; None before the retriever is trained.
    """

    steps: int
    validations: int
    validation_prompts: int
    test_prompts: int | None


@dataclass(frozen=True)
class Plan:
    """What a run needs, and how it is carried out.

    Attributes:
        model: Name of the base model.
        shape: Shape of the base model.
        lengths: Lengths of the prompts.
        device: The device that trains.
        choice: Precision, checkpointing and batches.
        work: Steps and prompts.
        speed: Speed of the device; None if it was not measured.
        origins: Source of a value by name of the choice: "yours" (a flag) or "kept" (the checkpoint); values that the
            planner chose are absent.
        head_weights: Weights that are trained beside LoRA.
    """

    model: str
    shape: ModelShape
    lengths: Lengths
    device: Device
    choice: RunChoice
    work: Work
    speed: Speed | None
    origins: Mapping[str, str] = field(default_factory=dict)
    head_weights: int = 0

    @property
    def trained_weights(self) -> int:
        """Weights of LoRA and of what is trained beside it."""
        setup = self.choice.setup
        return self.shape.lora_weights(setup.lora_rank, setup.lora_targets) + self.head_weights

    def seconds_per_step(self) -> float | None:
        """Seconds of a training step; None if the speed is unknown."""
        choice = self.choice
        padded = self.lengths.mean if choice.by_prompts else self.lengths.padded(choice.micro_batch)
        once = self._seconds(padded * choice.micro_batch, padded, 3 if choice.checkpointing else 2)
        return None if once is None else choice.accumulation * once

    def seconds(self) -> dict[str, float] | None:
        """Seconds of training, validation and test; None if the speed is unknown."""
        step, mean, batch = self.seconds_per_step(), self.lengths.mean, self.choice.eval_batch
        # Evaluation is ordered by length, so there is almost no padding.
        once = self._seconds(batch * mean, mean, 1)
        if step is None or once is None:
            return None

        work = self.work
        return {
            "training": work.steps * step,
            "validation": work.validations * work.validation_prompts / batch * once,
            "test": (work.test_prompts or 0) / batch * once,
        }

    def _seconds(self, tokens: float, length: float, passes: float) -> float | None:
        if self.speed is None:
            return None
        return seconds_of_pass(self.speed, self.shape, self.choice.setup, tokens=tokens, length=length, passes=passes)

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON, in bytes, seconds and tokens."""
        choice = self.choice
        return {
            "model": self.model,
            "weights": self.shape.weights,
            "device": {**asdict(self.device), "usable": self.device.usable},
            "prompt_tokens": {
                "mean": round(self.lengths.mean, 1),
                "p50": self.lengths.quantile(0.5),
                "p95": self.lengths.quantile(0.95),
                "longest": self.lengths.longest,
            },
            "precision": choice.setup.precision,
            "quantization": choice.quantization,
            "activation_checkpointing": choice.checkpointing,
            "per_device_train_batch_size": choice.micro_batch,
            "gradient_accumulation_steps": choice.accumulation,
            "per_device_eval_batch_size": choice.eval_batch,
            "decided_by": dict(self.origins),
            "training_bytes": {**asdict(choice.training), "total": choice.training.total},
            "evaluation_bytes": {**asdict(choice.evaluation), "total": choice.evaluation.total},
            "fits": choice.fits,
            "work": asdict(self.work),
            "seconds_per_step": self.seconds_per_step(),
            "seconds": self.seconds(),
        }

    def lines(self) -> list[str]:
        """The plan as lines; each begins with a label of at most 12 letters."""
        choice, device, lengths = self.choice, self.device, self.lengths
        return [
            f"device       {device.name}, {readable(device.total)}, {readable(device.usable)} of it usable",
            f"model        {self.model}, {self.shape.weights / 1e6:,.0f} M weights in "
            f"{choice.setup.precision}{self._by('quantization')}",
            f"prompts      {lengths.quantile(0.5)} tokens (median), 95% up to {lengths.quantile(0.95)}, longest about "
            f"{lengths.longest}",
            self.step_line(),
            self.memory_line(),
            self.time_line(),
            *self.warnings(),
        ]

    def short_lines(self) -> list[str]:
        """The lines that training prints before it loads the model."""
        precision = f"precision    {self.choice.setup.precision}{self._by('quantization')}"
        return [precision, self.step_line(), self.memory_line(), self.time_line(), *self.warnings()]

    def step_line(self) -> str:
        """Samples and passes of a step."""
        choice = self.choice
        again = "activations recomputed" if choice.checkpointing else "activations kept"
        samples, times = choice.micro_batch * choice.accumulation, choice.accumulation
        how = f"{choice.micro_batch} at a time, {times} times" if times > 1 else "all at a time"
        if choice.by_prompts:
            cores = choice.setup.prompts_at_once
            how = f"prompt by prompt, {cores} at once" if cores > 1 else "prompt by prompt"
        return f"step         {samples} samples: {how}{self._by('micro_batch')}; {again}{self._by('checkpointing')}"

    def memory_line(self) -> str:
        """The peaks of training and evaluation."""
        choice = self.choice
        return (
            f"memory       about {readable(choice.training.total)} in training, {readable(choice.evaluation.total)} in "
            f"evaluation ({choice.eval_batch} prompts at a time{self._by('eval_batch', ', ', '')}), of "
            f"{readable(self.device.usable)}"
        )

    def time_line(self) -> str:
        """Steps and their duration."""
        seconds, step = self.seconds(), self.seconds_per_step()
        if seconds is None or step is None:
            return f"steps        {self.work.steps:,}"

        texts = {part: duration_text(time) for part, time in seconds.items()}
        training = f"time         roughly {texts['training']} for {self.work.steps:,} steps of {duration_text(step)}"
        if self.work.test_prompts is None:
            return f"{training}; validation and test are unknown until the retriever is trained"
        return f"{training}, {texts['validation']} for validation, {texts['test']} for the test"

    def warnings(self) -> list[str]:
        """Lines on memory that may run short."""
        choice, device = self.choice, self.device
        most = max(choice.training.total, choice.evaluation.total)

        if not choice.fits:
            return [
                f"warning      needs {readable(most)}, but only {readable(device.usable)} are usable. Running out of "
                "memory makes micro-batches smaller. --quantization nf4, --activation_checkpointing true or a smaller "
                "--max_prompt_tokens needs less"
            ]

        # The process itself already has its memory.
        if most - choice.training.process > device.free:
            return [f"warning      only {readable(device.free)} are free now; other programs use the rest"]
        return []

    def _by(self, name: str, before: str = " (", after: str = ")") -> str:
        origin = self.origins.get(name, "")
        return f"{before}{origin}{after}" if origin else ""


def duration_text(seconds: float) -> str:
    """A duration in its largest unit.

    >>> [duration_text(s) for s in (0.0012, 0.04, 2.6, 95, 4000, 200_000)]
    ['1.2 ms', '0.04 s', '2.6 s', '1.6 min', '1.1 h', '2.3 days']
    """
    if seconds < _SHORT:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds:.2f} s"
    for size, unit in ((60, "s"), (60, "min"), (24, "h")):
        if seconds < size:
            return f"{seconds:.1f} {unit}"
        seconds /= size
    return f"{seconds:.1f} days"
