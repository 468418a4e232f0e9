"""A run's log over its steps: from the newest checkpoint's state, and what TensorBoard's files have beyond it.

A step that was trained again after an interruption counts as it was the last time.
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

# Of a log's rows: what is a place or a duration, no curve.
_NO_CURVES: Final = ("step", "epoch", "total_flos")
_PREFIXES: Final = {"train/": "", "eval/": "eval_"}


@dataclass(frozen=True)
class Event:
    """One logged value that TensorBoard's files have with its time."""

    name: str
    step: int
    value: float
    time: datetime


@dataclass
class Curves:
    """Attributes:
    values: By name as in the Trainer's log (loss, learning_rate, eval_...), by step.
    events: Of TensorBoard, oldest first; empty where there is none.
    """

    values: dict[str, dict[int, float]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def of(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a curve, by step; empty where there is none."""
        points = sorted(self.values.get(name, {}).items())
        return [step for step, _ in points], [value for _, value in points]

    @property
    def last_step(self) -> int:
        """The last one that anything was logged at."""
        return max((max(points) for points in self.values.values() if points), default=0)


def curves_of(state: Mapping[str, Any], logs: Path, sessions: Sequence[Session] = ()) -> Curves:
    """All curves of a run.

    Args:
        state: Of the newest checkpoint (trainer_state.json); may be empty.
        logs: Folder of TensorBoard's files; may be absent.
        sessions: Of the run: what was logged before the first one is of another run, and what a resume gave up is not
            part of the curves (it stays among the events).
    """
    begun = parse_time(sessions[0].started) if sessions else None
    curves = Curves(events=[event for event in _events(logs) if begun is None or event.time >= begun])
    rows = [row for row in state.get("log_history") or [] if isinstance(row, dict)]
    # Later ones win: in files the same step may stand twice.
    for event in curves.events:
        if not _given_up(event, sessions):
            _put(curves, event.name, event.step, event.value)
    for row in rows:
        for name, value in row.items():
            if name not in _NO_CURVES and isinstance(value, int | float):
                _put(curves, name, int(row.get("step", 0)), float(value))
    return curves


def _given_up(event: Event, sessions: Sequence[Session]) -> bool:
    """Whether a later process went on from an earlier step."""
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
    # Here, because it takes a second.
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for record in EventFileLoader(str(path)).Load():
        for value in record.summary.value:
            name = _name(value.tag)
            numbers = value.tensor.float_val
            if name and len(numbers) == 1:
                time = datetime.fromtimestamp(record.wall_time, UTC)
                yield Event(name, int(record.step), float(numbers[0]), time)


def _name(tag: str) -> str | None:
    """As the Trainer's log has it; None where it is no curve of the training."""
    for prefix, written in _PREFIXES.items():
        if tag.startswith(prefix):
            name = written + tag.removeprefix(prefix)
            return None if name in _NO_CURVES else name
    return None
