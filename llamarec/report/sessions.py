"""Interruptions of a run: the time each one cost, and the time its checkpoint saved."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from llamarec.checkpoints.storage.manifest import Session
from llamarec.checkpoints.storage.summary import CheckpointSummary, parse_time
from llamarec.report.curves import Curves


@dataclass(frozen=True)
class Interruption:
    """The end of one process and the resume by the next.

    Attributes:
        resumed: Start of the next process.
        from_step: Step from which it continued.
        reached: Last step that the ended process is known to have reached (logged or saved); None if unknown.
        seconds_a_step: Seconds per step of this run; None if unknown.
        host: Machine on which it continued.
        changes: Hyperparameters that the resume changed.
        was_finished: Whether the ended process had finished, so that the next one extended the training.
    """

    resumed: datetime | None
    from_step: int
    reached: int | None
    seconds_a_step: float | None
    host: str
    changes: tuple[str, ...]
    was_finished: bool = False

    @property
    def steps_lost(self) -> int | None:
        """Steps that were trained twice; None if unknown."""
        return None if self.reached is None else max(self.reached - self.from_step, 0)

    @property
    def seconds_lost(self) -> float | None:
        """Time to train them again; None if unknown."""
        lost = self.steps_lost
        return None if lost is None or self.seconds_a_step is None else lost * self.seconds_a_step

    @property
    def seconds_saved(self) -> float | None:
        """Time to train from the start to this step, which the checkpoint saved; None if unknown."""
        return None if self.seconds_a_step is None else self.from_step * self.seconds_a_step


def interruptions(
    sessions: Sequence[Session], facts: Sequence[CheckpointSummary], curves: Curves, seconds: float | None
) -> list[Interruption]:
    """One interruption per process except the first; `seconds` is the time per step."""
    found = []
    for earlier, session in pairwise(sessions):
        begun, resumed = parse_time(earlier.started), parse_time(session.started)
        # The checkpoint of the resume may be deleted by now, but the earlier process had reached its step.
        saved = [session.from_step] if session.from_step > earlier.from_step else []
        reached = _reached(begun, resumed, facts, curves, saved)
        found.append(
            Interruption(
                resumed,
                session.from_step,
                reached,
                seconds,
                session.host,
                session.changes,
                # Lost steps mean that another extension was killed in between.
                was_finished=session.extends and reached in (None, session.from_step),
            )
        )

    return found


def seconds_a_step(sessions: Sequence[Session], facts: Sequence[CheckpointSummary], curves: Curves) -> float | None:
    """Median time per step between successive logs and saves of one process, validations included."""
    moments = {(fact.created, fact.step) for fact in facts if fact.created}
    moments |= {(event.time, event.step) for event in curves.events if event.name == "loss"}
    starts = sorted(time for session in sessions if (time := parse_time(session.started)) is not None)
    rates = [
        (later - earlier).total_seconds() / (there - here)
        for (earlier, here), (later, there) in pairwise(sorted(moments))
        # The time between two processes does not count.
        if there > here and not any(earlier < start <= later for start in starts)
    ]

    return statistics.median(rates) if rates else None


def interrupted(found: Sequence[Interruption]) -> list[Interruption]:
    """All except extensions of a finished training."""
    return [one for one in found if not one.was_finished]


def _reached(
    begun: datetime | None, ended: datetime | None, facts: Sequence[CheckpointSummary], curves: Curves, known: list[int]
) -> int | None:
    if begun is None or ended is None:
        return max(known, default=None)
    logged = [event.step for event in curves.events if event.name == "loss" and begun <= event.time < ended]
    saved = [fact.step for fact in facts if fact.created is not None and begun <= fact.created < ended]
    return max([*logged, *saved, *known], default=None)
