"""What the Trainer's own state does not say about where a training is; stored inside `trainer_state.json`.

It lies among the callbacks' states, where a plain Trainer that resumes the checkpoint passes it over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llamarec.checkpoints.resume.position import Position
from llamarec.checkpoints.resume.schedule import ScheduleMap
from llamarec.checkpoints.storage.layout import STATE_NAME
from llamarec.errors import CheckpointError


@dataclass
class Progress:
    """Where a training is, at the edge of a step.

    Attributes:
        step: Optimizer steps done.
        position: The next sample.
        num_samples: Of an epoch.
        batch: Samples per optimizer step.
        micro_batch: Samples per forward pass and process that fit into memory; 0 = as configured.
        schedule: From steps to the learning-rate curve.
        loss_since_log: Sum of the steps' losses that are not logged yet.
        loss_total: Sum of those that are.
        logged_step: Step of the last log.
        grad_norm: Of the last step, for a log at the end of an epoch; a number or a tensor of one.
        learning_rate: Of the last step, likewise.
        events_due: The step is done, but its callbacks, log, validation and save are still to come.
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
    grad_norm: Any = None
    learning_rate: float | None = None
    events_due: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values; floats survive JSON exactly."""
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
        }

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Progress:
        """What `as_dict` wrote.

        Raises:
            CheckpointError: something is not there.
        """
        try:
            return Progress(
                step=int(content["step"]),
                position=Position(int(content["epoch"]), int(content["sample"])),
                num_samples=int(content["num_samples"]),
                batch=int(content["batch"]),
                micro_batch=int(content["micro_batch"]),
                schedule=ScheduleMap.from_dict(content["schedule"]) if content["schedule"] else None,
                loss_since_log=float(content["loss_since_log"]),
                loss_total=float(content["loss_total"]),
                logged_step=int(content["logged_step"]),
                grad_norm=content["grad_norm"],
                learning_rate=content["learning_rate"],
                events_due=bool(content.get("events_due")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"trainer_state.json: {STATE_NAME} is not readable", found=str(error)) from error


def progress_in(trainer_state: dict[str, Any]) -> Progress | None:
    """The progress inside a trainer state's content; None in a plain Trainer's.

    A plain Trainer that resumed our checkpoint carries our entry along unchanged; it is of an earlier step then.
    """
    states = trainer_state.get("stateful_callbacks") or {}
    entry = states.get(STATE_NAME)
    progress = Progress.from_dict(entry["attributes"]) if entry else None
    return progress if progress is not None and progress.step == trainer_state.get("global_step") else None


def plain_progress(trainer_state: dict[str, Any], num_samples: int, batch: int) -> Progress:
    """The progress of a plain Trainer's checkpoint, which counts steps of the batch size that it was started with.

    Args:
        trainer_state: Content of its trainer_state.json.
        num_samples: Of an epoch, now.
        batch: Samples per step that it was trained with; taken from its own counts where they tell.
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
