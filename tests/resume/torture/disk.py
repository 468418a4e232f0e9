"""Disks that refuse: full at any effect, full at any size, read-only, and files that cannot be deleted."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import errno
import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage.discovery import latest
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.trainer.saves.writer import CheckpointWriter
from llamarec.errors import CheckpointError
from tests.resume.observers import FailAt, observed, room_is_not_asked_for
from tests.resume.torture import session
from tests.resume.torture.kills import Killed, saver_of
from tests.resume.torture.kinds import Kind, NotHereError, Tally

_FOR_HOW_LONG: Final = (1, 5, math.inf)
_EFFECTS_OF_TWO_SAVES: Final = 150
_PAGE_BYTES: Final = 4096
_REMOUNT, _DETACH, _NOBODY = 32, 2, 65534


class Witness:
    """Looks at a run's folder before and after every save of a session.

    Attributes:
        problem: The first thing that was wrong.
        good: Number of the newest save that was over.
        failures_before: How many effects had failed when the latest save began.
    """

    def __init__(self, run: Path, fails: FailAt | None = None) -> None:
        self._run, self._fails = run, fails
        self._before: dict[int, int | None] = {}
        self.problem, self.good, self.failures_before = "", -1, 0

    def watch(self, say: Callable[[str], None]) -> CheckpointWriter:
        """The session."""
        return session.play(self._run, begun=self.begun, published=self.published, failed=self.failed, say=say)

    def begun(self, _: int) -> None:
        """Before a save."""
        self._before = session.checkpoints_in(self._run)
        self.failures_before = len(self._fails.failed) if self._fails is not None else 0

    def published(self, number: int) -> None:
        """After a save that did not fail: it is the newest one."""
        self.good = number
        choice = latest(RunFolder(self._run))
        found = session.number_of(choice.verdict.path) if choice else None
        if found != number and not self.problem:
            self.problem = f"save {number} did not fail, the newest good one is {found}"

    def failed(self, number: int) -> None:
        """After one that did: nothing else is gone, unless the disk refused to undo it as well."""
        self.problem = self.problem or session.problem_of_best_now(self._run)
        after = session.checkpoints_in(self._run)
        if number in after.values() or (self._fails and len(self._fails.failed) > self.failures_before + 1):
            return
        there = {step: self._as_before(step, after.get(step)) for step in self._before}
        if (there != self._before or None in after.values()) and not self.problem:
            self.problem = f"save {number} failed, and of {self._before} there is now {after}"

    def _as_before(self, step: int, save: int | None) -> int | None:
        """A best model whose own save had failed may have come with this one, in the place of an older one."""
        before = self._before[step]
        is_owed = before is not None and save is not None and save > before and session.SCRIPT[save].best_step == step
        return before if is_owed else save


def full(number: int, folder: Path, tally: Tally) -> None:
    """The disk is full from one effect on, for one effect, a few, or for good; deleting works, or not for once.

    And full for one effect, and for another one while the next save makes good for the first.
    """
    run, also = folder / "run-twice", random.Random(number).randrange(number + 1, number + _EFFECTS_OF_TWO_SAVES)
    fails = FailAt(number, 1, errno.ENOSPC, also=also)
    problem = _refused_session(run, fails)
    tally.add(f"and at {also} ({', '.join(fails.failed)}): {problem}" if problem else "")
    for how_many in _FOR_HOW_LONG:
        run = folder / f"run-{how_many}"
        spares = ("unlink", "remove") if how_many > 1 else ()
        fails = FailAt(number, how_many, errno.ENOSPC, spares)
        problem = _refused_session(run, fails)
        tally.add(f"for {how_many} effects ({', '.join(fails.failed[:2])}, ...): {problem}" if problem else "")


def _refused_session(run: Path, fails: FailAt) -> str:
    said: list[str] = []
    witness = Witness(run, fails)
    with observed(fails):
        try:
            saver = witness.watch(said.append)
        except CheckpointError as error:
            # The folder itself could not be made: nothing was begun, and nothing can have been lost.
            return "" if not RunFolder(run).checkpoints() else f"the training ended: {error}"
    if witness.problem:
        return witness.problem
    if not said and not _only_tidying(fails.failed):
        return "nobody was told"
    if saver.last_error and len(fails.failed) == witness.failures_before:
        return f"the last save is said to have failed: {saver.last_error}"
    return _problem_after(run, witness.good, saver)


def _only_tidying(failed: list[str]) -> bool:
    """What could not be deleted for once is cleared at the next start; that is no failed save."""
    return all(text.startswith(("unlink", "remove")) for text in failed)


def _problem_after(run: Path, good: int, saver: CheckpointWriter) -> str:
    """Once there is room again: nothing that was good is lost, and the training comes to its end."""
    problem = session.problem_of(run, good, recovered=False)
    if not problem:
        session.begin(saver_of(run))
        problem = session.problem_of(run, good, recovered=True)
    if not problem:
        end = session.play(run)
        problem = session.problem_of(run, session.LAST, recovered=True) or end.last_error
    return f"{problem} (last error: {saver.last_error!r})" if problem else ""


# ---- Real file systems ----


def mount(target: Path, size: int, flags: int = 0) -> None:
    """A file system in memory of so many bytes; with _REMOUNT one that is there becomes as wanted.

    Raises:
        OSError: not allowed, as for anybody but root.
    """
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(target), b"tmpfs", flags, f"size={size}".encode()):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


@contextlib.contextmanager
def mounted(target: Path, size: int) -> Iterator[Path]:
    """A small file system, unmounted at the end."""
    target.mkdir(parents=True, exist_ok=True)
    mount(target, size)
    try:
        yield target
    finally:
        ctypes.CDLL(ctypes.util.find_library("c")).umount2(os.fsencode(target), _DETACH)


def require_mounts(folder: Path) -> None:
    """Raises `NotHereError` where no file system can be mounted."""
    if not sys.platform.startswith("linux"):
        raise NotHereError("small file systems are mounted on Linux only")
    try:
        with mounted(folder / "probe", _PAGE_BYTES * 4):
            pass
    except OSError as error:
        raise NotHereError(f"mounting a small file system needs root: {error}") from error


def sizes(folder: Path) -> list[int]:
    """Sizes in bytes, page by page, from nothing to where the whole session fits."""
    require_mounts(folder)
    session.play(folder / "run")
    needed = sum(-(-len(data) // _PAGE_BYTES) * _PAGE_BYTES for data in session.files_of(folder / "run").values())
    return [pages * _PAGE_BYTES for pages in range(2, 2 * needed // _PAGE_BYTES)]


def small(size: int, folder: Path, tally: Tally) -> None:
    """A session on a file system of a size, that is only then made larger."""
    with mounted(folder / "disk", size) as disk:
        run, said = disk / "run", list[str]()
        witness = Witness(run)
        with room_is_not_asked_for():
            try:
                saver = witness.watch(said.append)
            except CheckpointError as error:
                tally.add("" if not RunFolder(run).checkpoints() else f"the training ended: {error}")
                return
        problem = witness.problem
        if not problem and (saver.last_error == "") != (witness.good == session.LAST):
            problem = f"last error {saver.last_error!r}, last good save {witness.good}"
        mount(disk, 2**24, _REMOUNT)
        tally.add(problem or _problem_after(run, witness.good, saver))


# ---- Folders that cannot be written ----


def numbers(folder: Path) -> list[int]:
    """Of all saves."""
    if os.name == "nt":
        raise NotHereError("on Windows a read-only folder can be written")
    return list(range(session.LAST + 1))


def read_only(number: int, folder: Path, tally: Tally) -> None:
    """The run's folder becomes read-only after a save; what is there can be read, and training goes on."""
    folder.chmod(0o777)
    with _not_root():
        tally.add(_read_only_problem(number, folder / "run"))


@contextlib.contextmanager
def _not_root() -> Iterator[None]:
    """Root may write anything; so this is somebody else for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def _read_only_problem(number: int, run: Path) -> str:
    said: list[str] = []

    def published(done: int) -> None:
        if done == number:
            run.chmod(0o555)

    saver = session.play(run, published=published, say=said.append)
    problem = session.problem_of(run, number, recovered=False)
    if number < session.LAST and not (saver.last_error and said):
        problem = problem or "no save could be written, and nobody was told"
    problem = problem or _begins_in(run)
    run.chmod(0o755)
    return problem or _problem_after(run, number, saver)


def _begins_in(run: Path) -> str:
    """A training refuses to begin where it could not save, and says where that is."""
    (run / ".run.lock").chmod(0o444)
    try:
        session.play(run)
        return "a training began in a folder that is read-only"
    except CheckpointError as error:
        return "" if str(run) in str(error) else f"the error names no folder: {error}"
    finally:
        (run / ".run.lock").chmod(0o644)


KINDS = (
    Kind("disk-full", "ENOSPC at every effect, once, for a while and for good", Killed().points, full, 2),
    Kind("disk-small", "a real file system of every size that is too small", sizes, small),
    Kind("read-only", "the folder becomes read-only after each save", numbers, read_only),
)
