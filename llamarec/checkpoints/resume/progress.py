"""Progress of a training beyond the Trainer's own state; stored inside `trainer_state.json`.

It is an entry among the callbacks' states, which a plain Trainer ignores when it resumes the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llamarec.checkpoints.resume.position import Position
from llamarec.checkpoints.resume.schedule import ScheduleMap
from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.json_shapes import Count, ShapeError
from llamarec.checkpoints.storage.layout import STATE_NAME, TRAINER_STATE
from llamarec.errors import CheckpointError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """The JSON form of `Progress`."""

    step: Count
    epoch: Count
    sample: Count
    num_samples: Count
    batch: Count
    micro_batch: Count
    schedule: ScheduleMap | None
    loss_since_log: float
    loss_total: float
    logged_step: Count
    grad_norm: float | None
    learning_rate: float | None
    events_due: bool = False
    order: str = ""
    process_losses: tuple[float, ...] = ()


@dataclass(kw_only=True)
class Progress:
    """A training's progress at a step boundary.

    Attributes:
        step: Optimizer steps done.
        position: The next sample.
        num_samples: Samples per epoch.
        batch: Samples per optimizer step.
        micro_batch: Samples per forward pass and process that fit into memory; 0 = as configured.
        schedule: Map from optimizer steps to the learning-rate curve.
        loss_since_log: Sum of the losses of steps that are not logged yet; the mean over processes.
        loss_total: Sum of the losses of logged steps.
        logged_step: Step of the last log.
        grad_norm: Gradient norm of the last step, for a log at the end of an epoch; a number or a tensor of one.
        learning_rate: Learning rate of the last step, likewise.
        events_due: Whether the step is done, but its callbacks, log, validation and save are still to come.
        order: Checksum of the epoch's order where a sampler of the program gives it; else empty.
        process_losses: `loss_since_log` of each process, where there are several.
    """

    step: int = 0
    position: Position = field(default_factory=Position)
    num_samples: int = 0
    batch: int = 0
    micro_batch: int = 0
    schedule: ScheduleMap | None = None
    loss_since_log: float = 0.0
    loss_total: float = 0.0
    logged_step: int = 0
    grad_norm: float | torch.Tensor | None = None
    learning_rate: float | None = None
    events_due: bool = False
    order: str = ""
    process_losses: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The progress as JSON values; floats survive JSON exactly."""
        return {
            "step": self.step,
            "epoch": self.position.epoch,
            "sample": self.position.sample,
            "num_samples": self.num_samples,
            "batch": self.batch,
            "micro_batch": self.micro_batch,
            "schedule": self.schedule.as_dict() if self.schedule else None,
            "loss_since_log": self.loss_since_log,
            "loss_total": self.loss_total,
            "logged_step": self.logged_step,
            "grad_norm": None if self.grad_norm is None else float(self.grad_norm),
            "learning_rate": self.learning_rate,
            "events_due": self.events_due,
            "order": self.order,
            **({"process_losses": list(self.process_losses)} if self.process_losses else {}),
        }

    def loss_of(self, rank: int, world_size: int) -> float:
        """What a process has not logged yet. Where there were others, each has the mean."""
        return self.process_losses[rank] if len(self.process_losses) == world_size else self.loss_since_log

    @staticmethod
    def from_dict(content: object) -> Progress:
        """The progress that `as_dict` wrote.

        Raises:
            CheckpointError: a field is missing or has another type.
        """
        try:
            stored = json_shapes.shaped(content, _Stored)
        except ShapeError as error:
            raise CheckpointError(
                f"{TRAINER_STATE}: the entry {STATE_NAME} cannot be read", found=str(error)
            ) from error

        return Progress(
            step=stored.step,
            position=Position(stored.epoch, stored.sample),
            num_samples=stored.num_samples,
            batch=stored.batch,
            micro_batch=stored.micro_batch,
            schedule=stored.schedule,
            loss_since_log=stored.loss_since_log,
            loss_total=stored.loss_total,
            logged_step=stored.logged_step,
            grad_norm=stored.grad_norm,
            learning_rate=stored.learning_rate,
            events_due=stored.events_due,
            order=stored.order,
            process_losses=stored.process_losses,
        )


def progress_in(trainer_state: dict[str, Any]) -> Progress | None:
    """The progress inside a trainer state's content; None for a plain Trainer's state.

    A plain Trainer that resumed our checkpoint keeps our entry unchanged, at the step where it took over.

    Raises:
        CheckpointError: our entry cannot be read.
    """
    entry = (trainer_state.get("stateful_callbacks") or {}).get(STATE_NAME)
    if not entry:
        return None

    progress = Progress.from_dict(entry.get("attributes") if isinstance(entry, dict) else entry)
    return progress if progress.step == trainer_state.get("global_step") else None


def plain_progress(trainer_state: dict[str, Any], num_samples: int, batch: int) -> Progress:
    """The progress of a plain Trainer's checkpoint, which counts steps of its own batch size.

    Args:
        trainer_state: Content of its trainer_state.json.
        num_samples: Samples per epoch in this process.
        batch: Its samples per step; the counts in its state take precedence if they contradict.
    """
    step, epoch = int(trainer_state.get("global_step", 0)), float(trainer_state.get("epoch") or 0.0)

    per_epoch = -(-num_samples // batch)
    if step and epoch:
        # state.epoch is the fraction of an epoch's batches that are done, which rounding up to whole ones hides.
        per_epoch = max(round(step / epoch), 1)
    done, in_epoch = divmod(step, per_epoch)
    found_batch = batch if -(-num_samples // batch) == per_epoch else -(-num_samples // per_epoch)
    total = int(trainer_state.get("max_steps") or 0) or per_epoch
    return Progress(
        position=Position(done, min(in_epoch * found_batch, num_samples)),
        num_samples=num_samples,
        batch=found_batch,
        schedule=ScheduleMap(total, total),
        logged_step=step,
    )
