"""One run at a time in a folder: a second one is refused and told which process is training."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final

from filelock import FileLock, Timeout

from llamarec.checkpoints.config import ProgramHints
from llamarec.checkpoints.storage import durable, json_shapes
from llamarec.checkpoints.storage.entries import described, kind_of
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.os_errors import NO_LOCKS, advice
from llamarec.errors import CheckpointError, LockedError

_RENAME: Final = "ren" if os.name == "nt" else "mv"
_LOOKED_AT_SECONDS: Final = 0.2


@dataclass(frozen=True)
class _Holder:
    """The process that holds a lock, according to the file beside it."""

    pid: int
    host: str
    started: str


def check_is_folder(path: Path) -> None:
    """Raises if something that is no folder has the name of a run's folder; one that does not exist yet is fine.

    Raises:
        CheckpointError: it is a file, a link to nothing, ...; says which.
    """
    if kind_of(path) == "nothing" or path.is_dir():
        return
    raise CheckpointError(
        f"{path} is {described(path)}, not a folder",
        expected="a folder for checkpoints, existing or new",
        found=described(path),
        hint=[
            "another --output_dir",
            f"or give it another name: {'ren' if os.name == 'nt' else 'mv'} {path} {path}.old",
        ],
    )


class RunLock:
    """The lock that a process holds while it trains in a run's folder.

    The operating system releases it when the process ends, however it ends. A file beside it names the holder, for
    error messages only.
    """

    def __init__(self, run: RunFolder, hints: ProgramHints | None = None) -> None:
        self._run, self._hints = run, hints or ProgramHints()
        self._lock = FileLock(run.lock, timeout=0)

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            LockedError: another process holds it.
            CheckpointError: the folder cannot be written.
        """
        check_is_folder(self._run.path)
        lock = self._run.lock
        if kind_of(lock) == "folder":
            raise CheckpointError(f"{lock} is a folder", expected="no such entry", hint="give it another name")

        try:
            durable.make_folders(self._run.path)
            if kind_of(self._run.lock) in ("link", "other"):
                # Locking opens the file, and empties what a link leads to.
                durable.remove(self._run.lock)
            # `is_locked` in another process holds it for a moment.
            self._lock.acquire(timeout=_LOOKED_AT_SECONDS)
        except Timeout as error:
            raise LockedError(
                f"another run is training in {self._run.path}",
                found=describe_holder(self._run),
                hint=f"wait for it, stop it, or give this one {self._hints.other_folder}",
            ) from error
        except (OSError, NotImplementedError) as error:
            # The latter is filelock's word for a file system without locks.
            has_no_locks = not isinstance(error, OSError) or error.errno in NO_LOCKS
            raise CheckpointError(
                f"{self._run.path} cannot be locked" if has_no_locks else f"{self._run.path} cannot be written",
                found=str(error),
                hint=advice(error, self._run.path, self._hints.other_folder, locks=True),
            ) from error

        holder = {"pid": os.getpid(), "host": platform.node(), "started": datetime.now(UTC).isoformat()}
        with contextlib.suppress(OSError):
            durable.write_note(self._run.holder, json.dumps(holder).encode())

    def release(self) -> None:
        """Releases the lock; does nothing if it is not held."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                durable.remove(self._run.holder)
            self._lock.release()

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def describe_holder(run: RunFolder) -> str:
    """Process, host and start time of a lock's holder, as far as they are known."""
    try:
        holder = json_shapes.read(run.holder, _Holder)
    except (OSError, ShapeError):
        return "an unknown process"

    since = holder.started[:19].replace("T", " ")
    return f"process {holder.pid} on {holder.host}, since {since} UTC"


def is_locked(run: RunFolder) -> bool:
    """Whether a process is training in a run's folder."""
    if kind_of(run.lock) != "file" or kind_of(run.holder) != "file":
        return False
    lock = FileLock(run.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:
        # The folder belongs to another user or cannot be written.
        return False
    lock.release()
    return False
