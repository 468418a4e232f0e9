"""What a kind of torture is, and how its points are run: one forked child for each, some at a time."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.resume import forks

NUM_CORES: Final = os.cpu_count() or 1


class NotHereError(Exception):
    """This kind cannot be tried on this machine; says why."""


@dataclass
class Tally:
    """What became of the points of one check.

    Attributes:
        tried: How many there were.
        problems: One sentence for each that was not survived.
    """

    tried: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Counts one more; an empty text is none."""
        self.tried += 1
        if problem:
            self.problems.append(problem)


@dataclass(frozen=True)
class Kind:
    """One kind of torture.

    Attributes:
        name: For `--kinds` and the table.
        what: One line for the table.
        points: Makes, in a folder of its own, what the checks compare with, and returns the points.
        check: Tries one point in a child of its own, in an empty folder.
        every: Of the points, one in so many is tried by default.
        trains: It needs torch.
    """

    name: str
    what: str
    points: Callable[[Path], list[Any]]
    check: Callable[[Any, Path, Tally], None]
    every: int = 1
    trains: bool = False


def try_all(kind: Kind, folder: Path, every: int, draw: random.Random) -> Tally:
    """Runs one in `every` of the points of a kind, at least one."""
    folder.chmod(0o755)  # some checks become another user
    points = kind.points(folder / "whole")
    points = points and points[draw.randrange(min(every, len(points))) :: every]
    total = Tally()

    def job(point: Any, folder: Path) -> tuple[int, list[str]]:
        tally = Tally()
        kind.check(point, folder, tally)
        return tally.tried, tally.problems

    for point, ending in forks.each(points, job, folder / "points", NUM_CORES):
        if ending.status:
            total.add(f"{point}: the check ended with {ending.status}: {ending.log[-800:]}")
        else:
            total.tried += ending.result[0]
            total.problems += [f"{point}: {problem}" for problem in ending.result[1]]
    shutil.rmtree(folder, ignore_errors=True)
    return total


def scratch() -> Path | None:
    """A place for folders where fsync costs nothing, if there is one: a kill leaves the same there as on a disk."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else None
