"""Power losses: sessions recorded once, and what each of their moments could have left on the medium."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.resume.torture import session
from tests.resume.torture.kills import killed, saver_of, sparse
from tests.resume.torture.kinds import Kind, Tally
from tests.resume.torture.recorder import LOSSES, Loss, Recorder, after_power_loss, newest_over

# The entries that lead to the run's folder can be lost too.
RUN: Final = "experiments/run/checkpoints"
_DRAWS: Final = 3
"""How often the dice are thrown where they decide what survives."""
_TOGETHER: Final = 12
"""Moments that are looked at in one process: many leave the same."""


@dataclass
class Losses:
    """All power losses of a recording, and what is wrong after each.

    Attributes:
        recorder: The recording.
        published: Number of the newest save that was over before it began.
    """

    recorder: Recorder
    published: int = -1

    def try_moments(self, moments: range, folder: Path, tally: Tally) -> None:
        """Counts the losses at some moments."""
        seen: dict[tuple[int, int], str] = {}
        for number in moments:
            num_changes, coming = self.recorder.moments[number]
            published = max(newest_over(self.recorder, num_changes), self.published)
            for loss, seed in _dice():
                left = folder / "left"
                after_power_loss(self.recorder, num_changes, loss, random.Random(f"{number} {seed}"), left)
                key = (published, hash(tuple(session.files_of(left).items())))
                if key not in seen:
                    seen[key] = problem_after_loss(left / RUN, published)
                tally.add(f"moment {number}, {_said(coming, loss)}: {seen[key]}" if seen[key] else "")
                shutil.rmtree(left)


def _dice() -> list[tuple[Loss, int]]:
    return [(loss, seed) for loss in LOSSES for seed in range(_DRAWS if "some" in (loss.entries, loss.contents) else 1)]


def _said(coming: str, loss: Loss) -> str:
    return f"before {coming}, what was not synced: entries {loss.entries}, contents {loss.contents}"


def problem_after_loss(run: Path, published: int) -> str:
    """What is wrong when the next process has cleared up, and when it has come to the end."""
    session.begin(saver_of(run))
    problem = session.problem_of(run, published, recovered=True)
    problem = problem or session.problem_of_kept(run)
    if not problem:
        session.play(run)
        problem = session.problem_of(run, session.LAST, recovered=True)
    return problem


class OfSession:
    """Power losses in a session."""

    def points(self, folder: Path) -> list[tuple[int, int]]:
        """Ranges of moments."""
        folder.mkdir(parents=True)
        recorder = Recorder(folder)
        with recorder.recording():
            session.play(folder / RUN, published=recorder.over)
        self._losses = Losses(recorder)
        number = len(recorder.moments)
        return [(start, min(start + _TOGETHER, number)) for start in range(0, number, _TOGETHER)]

    def check(self, moments: tuple[int, int], folder: Path, tally: Tally) -> None:
        """All that a power loss at some moments could leave."""
        self._losses.try_moments(range(*moments), folder, tally)


def in_recovery(number: int, folder: Path, tally: Tally) -> None:
    """A session killed at an effect, and a power loss at every moment of clearing up after it."""
    (folder / RUN).parent.mkdir(parents=True)
    run, published = killed(number, folder / "session", folder / RUN)
    shutil.rmtree(folder / "session")
    recorder = Recorder(folder)
    with recorder.recording():
        session.begin(saver_of(run))
    shutil.rmtree(folder / "experiments")
    Losses(recorder, published).try_moments(range(len(recorder.moments)), folder, tally)


_SESSION = OfSession()
KINDS = (
    Kind(
        "power",
        "power loss at every effect: unsynced entries and contents lost or torn",
        _SESSION.points,
        _SESSION.check,
    ),
    Kind(
        "power-recovery", "the same while clearing up after a kill", lambda folder: sparse(folder, 12), in_recovery, 24
    ),
)
