"""The processes that trained a run, one after the other: what each interruption cost, and what its checkpoint saved."""

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
        resumed: When the next one started.
        from_step: Where it went on.
        reached: The last step that the ended one is known to have reached (logged or saved); None where nothing tells.
        seconds_a_step: Of this run; None where nothing tells.
        host: Where it went on.
        changes: Hyperparameters that the resume changed.
        was_finished: The ended one had come to its end, and the next one goes on from there: no interruption.
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
        """Trained twice."""
        return None if self.reached is None else max(self.reached - self.from_step, 0)

    @property
    def seconds_lost(self) -> float | None:
        """For training them again."""
        lost = self.steps_lost
        return None if lost is None or self.seconds_a_step is None else lost * self.seconds_a_step

    @property
    def seconds_saved(self) -> float | None:
        """Training from the start up to here, which a run without checkpoints would have had to repeat."""
        return None if self.seconds_a_step is None else self.from_step * self.seconds_a_step


def interruptions(
    sessions: Sequence[Session], facts: Sequence[CheckpointSummary], curves: Curves, seconds: float | None
) -> list[Interruption]:
    """One for every process but the first; `seconds` are those of a step."""
    found = []
    for earlier, session in pairwise(sessions):
        begun, resumed = parse_time(earlier.started), parse_time(session.started)
        # What was resumed from may be gone by now; where the earlier process saved it, that had come so far.
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
                # Where steps were lost, another extension had begun and was killed.
                was_finished=session.extends and reached in (None, session.from_step),
            )
        )
    return found


def seconds_a_step(sessions: Sequence[Session], facts: Sequence[CheckpointSummary], curves: Curves) -> float | None:
    """Median over pairs of moments at which one process logged or saved, validations between them included."""
    moments = {(fact.created, fact.step) for fact in facts if fact.created}
    moments |= {(event.time, event.step) for event in curves.events if event.name == "loss"}
    starts = sorted(time for session in sessions if (time := parse_time(session.started)) is not None)
    rates = [
        (later - earlier).total_seconds() / (there - here)
        for (earlier, here), (later, there) in pairwise(sorted(moments))
        # A pause between two processes is no training.
        if there > here and not any(earlier < start <= later for start in starts)
    ]
    return statistics.median(rates) if rates else None


def interrupted(found: Sequence[Interruption]) -> list[Interruption]:
    """Those that were not the extension of a finished training."""
    return [one for one in found if not one.was_finished]


def _reached(
    begun: datetime | None, ended: datetime | None, facts: Sequence[CheckpointSummary], curves: Curves, known: list[int]
) -> int | None:
    if begun is None or ended is None:
        return max(known, default=None)
    logged = [event.step for event in curves.events if event.name == "loss" and begun <= event.time < ended]
    saved = [fact.step for fact in facts if fact.created is not None and begun <= fact.created < ended]
    return max([*logged, *saved, *known], default=None)
