"""A run's logged values by step, from the newest checkpoint and from TensorBoard's files.

If a step was trained again after an interruption, its last values count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.storage.manifest import Session
from llamarec.checkpoints.storage.summary import parse_time

# Entries of a log row that are no curves.
_NO_CURVES: Final = ("step", "epoch", "total_flos")
_PREFIXES: Final = {"train/": "", "eval/": "eval_"}


@dataclass(frozen=True)
class Event:
    """One value from TensorBoard's files, with the time at which it was logged."""

    name: str
    step: int
    value: float
    time: datetime


@dataclass
class Curves:
    """Attributes:
    values: Values by name in the Trainer's log (loss, learning_rate, eval_...) and by step.
    events: Events of TensorBoard, oldest first; empty if there are none.
    """

    values: dict[str, dict[int, float]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def of(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a curve, in the order of the steps; empty if it was not logged."""
        points = sorted(self.values.get(name, {}).items())
        return [step for step, _ in points], [value for _, value in points]

    @property
    def last_step(self) -> int:
        """The last logged step; 0 if nothing was logged."""
        return max((max(points) for points in self.values.values() if points), default=0)


def curves_of(state: Mapping[str, Any], logs: Path, sessions: Sequence[Session] = ()) -> Curves:
    """All curves of a run.

    Args:
        state: Content of the newest checkpoint's trainer_state.json; may be empty.
        logs: Folder of TensorBoard's files; may be absent.
        sessions: The run's processes. Events before the first belong to another run. Steps that a resume discarded are
            not part of the curves, but stay among the events.
    """
    begun = parse_time(sessions[0].started) if sessions else None
    curves = Curves(events=[event for event in _events(logs) if begun is None or event.time >= begun])
    rows = [row for row in state.get("log_history") or [] if isinstance(row, dict)]

    # A file may contain a step twice; the later value wins.
    for event in curves.events:
        if not _is_discarded(event, sessions):
            _put(curves, event.name, event.step, event.value)
    for row in rows:
        for name, value in row.items():
            if name not in _NO_CURVES and isinstance(value, int | float):
                _put(curves, name, int(row.get("step", 0)), float(value))

    return curves


def _is_discarded(event: Event, sessions: Sequence[Session]) -> bool:
    """Whether a later process resumed before the step of this event."""
    return any(
        event.step > session.from_step and (resumed := parse_time(session.started)) is not None and event.time < resumed
        for session in sessions
    )


def _put(curves: Curves, name: str, step: int, value: float) -> None:
    if math.isfinite(value):
        curves.values.setdefault(name, {})[step] = value


def _events(logs: Path) -> list[Event]:
    files = sorted(logs.rglob("events.out.tfevents.*")) if logs.is_dir() else []
    return sorted((event for path in files for event in _of_file(path)), key=lambda event: event.time)


def _of_file(path: Path) -> Iterable[Event]:
    # Imported here, because it takes a second.
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for record in EventFileLoader(str(path)).Load():
        for value in record.summary.value:
            name = _name(value.tag)
            numbers = value.tensor.float_val
            if name and len(numbers) == 1:
                time = datetime.fromtimestamp(record.wall_time, UTC)
                yield Event(name, int(record.step), float(numbers[0]), time)


def _name(tag: str) -> str | None:
    """The name in the Trainer's log; None if it is no curve of the training."""
    for prefix, written in _PREFIXES.items():
        if tag.startswith(prefix):
            name = written + tag.removeprefix(prefix)
            return None if name in _NO_CURVES else name
    return None
