"""SIGKILL at every effect of the scripted session, and again at every effect of clearing up after it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.trainer.saves.writer import CheckpointWriter
from tests.resume import forks
from tests.resume.observers import KillAt, Recording, observed, without_most_writes
from tests.resume.torture import session
from tests.resume.torture.kinds import Kind, Tally


class Killed:
    """The scripted session, killed and gone on with."""

    def __init__(self) -> None:
        self._whole: dict[str, bytes] = {}
        # Folders from which the session was seen to come to its end.
        self._good: list[dict[str, bytes]] = []

    def points(self, folder: Path) -> list[int]:
        """Numbers of the effects of a session that nobody kills."""
        recording = Recording()
        with observed(recording):
            session.play(folder)
        session.kept_after()
        self._whole = session.files_of(folder)
        return list(range(len(recording.effects)))

    def once(self, number: int, folder: Path, tally: Tally) -> None:
        """Killed once: looked at as it is, after clearing up, and at the end."""
        run, published = killed(number, folder, folder / "run")
        tally.add(session.problem_of(run, published, recovered=False) or self._problem_after(run, published))

    def twice(self, number: int, folder: Path, tally: Tally) -> None:
        """Killed once, and once more at every effect of clearing up."""
        run, published = killed(number, folder, folder / "run")
        clean, recording = folder / "clean", Recording()
        shutil.copytree(run, clean, symlinks=True)
        with observed(recording):
            session.begin(saver_of(clean))
        for second in range(len(recording.effects)):
            again = folder / f"again-{second}"
            shutil.copytree(run, again)
            ending = forks.run(folder / "child", _begin, folder=str(again), kill_at=second)
            problem = "" if ending.was_killed else f"was not killed a second time: {ending.log}"
            problem = problem or session.problem_of(again, published, recovered=False)
            problem = problem or self._problem_after(again, published)
            tally.add(f"then at {second} {recording.effects[second]}: {problem}" if problem else "")
            shutil.rmtree(again)

    def _problem_after(self, run: Path, published: int) -> str:
        session.begin(saver_of(run))
        problem, files = session.problem_of(run, published, recovered=True), session.files_of(run)
        problem = problem or session.problem_of_kept(run)
        if problem or files in self._good:
            return problem
        session.play(run)
        end = session.files_of(run)
        if end == self._whole:
            self._good.append(files)
            return ""
        differ = sorted(name for name in end.keys() | self._whole.keys() if end.get(name) != self._whole.get(name))
        return f"another end than without the kill: {differ}"


def killed(number: int, folder: Path, run: Path) -> tuple[Path, int]:
    """A session killed at an effect: its folder, and the number of the newest save that was over."""
    published = folder / "published"
    ending = forks.run(folder / "child", _play, folder=str(run), kill_at=number, published=str(published))
    if not ending.was_killed:
        raise AssertionError(f"effect {number} was not reached: {ending.log}")
    lines = published.read_text(encoding="utf-8").split() if published.exists() else []
    run.mkdir(parents=True, exist_ok=True)
    return run, int(lines[-1]) if lines else -1


def _play(folder: str, kill_at: int, published: str) -> None:
    descriptor = os.open(published, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with observed(KillAt(kill_at)):
        session.play(Path(folder), published=lambda number: _write_line(descriptor, number))


def _write_line(descriptor: int, number: int) -> None:
    os.write(descriptor, f"{number}\n".encode())


def _begin(folder: str, kill_at: int) -> Any:
    with observed(KillAt(kill_at)):
        session.begin(saver_of(Path(folder)))


def saver_of(run: Path) -> CheckpointWriter:
    """As `session.play` makes it."""
    return CheckpointWriter(RunFolder(run), limit=session.LIMIT, warn=lambda _: None, in_background=False)


def sparse(folder: Path, every: int) -> list[int]:
    """Numbers of the effects of a session, of the many small writes one in `every`."""
    recording = Recording()
    with observed(recording):
        session.play(folder)
    return without_most_writes(recording.effects, every)


class KilledTwice(Killed):
    """At fewer effects: before and after a write there is the same to be cleared up."""

    def points(self, folder: Path) -> list[int]:
        """Numbers of effects of a session that nobody kills."""
        super().points(folder)
        return sparse(folder / "once-more", 16)


KILLED, TWICE = Killed(), KilledTwice()
KINDS = (
    Kind("kill", "SIGKILL at every effect of saving, rotating, swapping, deleting", KILLED.points, KILLED.once),
    Kind("kill-twice", "and again at every effect of clearing up after it", TWICE.points, TWICE.twice, 2),
)
