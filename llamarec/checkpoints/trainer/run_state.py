"""What one training knows of itself, and what it has been asked to save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from llamarec.checkpoints.resume.decision import Resume
from llamarec.checkpoints.resume.position import Geometry, Position
from llamarec.checkpoints.resume.progress import Progress
from llamarec.checkpoints.resume.schedule import ScheduleMap
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import Session


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """How this process follows from the earlier ones of its run.

    Attributes:
        run_id: Identifier shared by all checkpoints that descend from one start.
        parent: Step of the checkpoint that this process resumed from; None from step 0.
        sessions: The processes that led here, this one last.
        given: Flags that the user gave, over all sessions.
        next_sequence: Number of this process's first save, counted over all saves in the folder.
    """

    run_id: str
    parent: int | None
    sessions: tuple[Session, ...]
    given: Mapping[str, object]
    next_sequence: int


@dataclass(frozen=True, kw_only=True)
class SeenBatch:
    """A micro-batch that was trained on.

    Attributes:
        epoch: 0-based.
        start: Its first position in the epoch's order.
        stop: The one behind its last.
        digest: Of its values.
        state: Digest of the states that the data went by; empty where they go by none.
    """

    epoch: int
    start: int
    stop: int
    digest: str
    state: str = ""


@dataclass(kw_only=True)
class RunState:
    """One training, from its start to its end. Its methods are the only writers of `progress` and `recent`.

    Attributes:
        folder: Where its checkpoints are.
        fingerprints: What identifies the run, as plain JSON values.
        resume: The decision it started with; None from step 0.
        lineage: How it follows from earlier processes.
        progress: Where it is.
        recent: The micro-batches before that, the newest last.
    """

    folder: RunFolder
    fingerprints: dict[str, object]
    resume: Resume | None
    lineage: Lineage
    progress: Progress = field(default_factory=Progress)
    recent: tuple[SeenBatch, ...] = ()

    def start(self, geometry: Geometry, num_steps: int) -> None:
        """A training of so many steps begins at the first sample."""
        schedule = ScheduleMap(num_steps, num_steps)
        self.progress = Progress(num_samples=geometry.num_samples, batch=geometry.batch, schedule=schedule)

    def move_to(self, position: Position) -> None:
        """The next sample is another one."""
        self.progress.position = position

    def set_order(self, digest: str) -> None:
        """Remembers the order of the present epoch."""
        self.progress.order = digest

    def note_batches(self, recent: tuple[SeenBatch, ...]) -> None:
        """Remembers what was trained on last."""
        self.recent = recent

    def set_micro_batch(self, size: int) -> None:
        """Remembers how many samples per forward pass fit into memory."""
        self.progress.micro_batch = size

    def record_update(self, grad_norm: torch.Tensor | float | None, learning_rate: float | None) -> None:
        """Remembers what the last step was made with, for a log at the end of the epoch."""
        self.progress.grad_norm, self.progress.learning_rate = grad_norm, learning_rate

    def mark_events(self, *, due: bool) -> None:
        """Whether the step is done and its callbacks, log, validation and save are still to come."""
        self.progress.events_due = due

    def record_totals(self, step: int, losses: list[float], loss_total: float, logged_step: int) -> None:
        """Takes over the Trainer's sums, to be saved; `losses` are those of each process since the last log."""
        progress = self.progress
        progress.step, progress.logged_step = step, logged_step
        progress.loss_since_log, progress.loss_total = sum(losses) / len(losses), loss_total
        progress.process_losses = tuple(losses) if len(losses) > 1 else ()


class SaveRequests:
    """What is to be saved at the next boundary.

    Attributes:
        reason: "scheduled", "best" or an empty text.
    """

    def __init__(self) -> None:
        self._scheduled = self._best = False

    def scheduled(self) -> None:
        """The Trainer's schedule, a callback or the end of training asks for a save."""
        self._scheduled = True

    def best(self) -> None:
        """The model is the best one so far."""
        self._best = True

    @property
    def flags(self) -> tuple[bool, bool]:
        """Whether the schedule asks for a save, and whether the best model does."""
        return self._scheduled, self._best

    def take_over(self, *, scheduled: bool, best: bool) -> None:
        """What all processes together ask for."""
        self._scheduled, self._best = scheduled, best

    def clear(self) -> None:
        """Saved, or not asked for any more."""
        self._scheduled = self._best = False

    @property
    def reason(self) -> str:
        """The stronger of the requests; empty where there is none."""
        if self._scheduled:
            return "scheduled"

        return "best" if self._best else ""
