"""Writes snapshots, one after the other, in the background: publish, verify, best model, retention, backup."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from llamarec.checkpoints.mirror.keeper import MirrorKeeper
from llamarec.checkpoints.storage.discovery import inspect, saved_checkpoint
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import Manifest
from llamarec.checkpoints.storage.publish import delete, publish
from llamarec.checkpoints.storage.readable_units import readable
from llamarec.checkpoints.storage.retention import to_delete
from llamarec.checkpoints.storage.space import free_bytes, needed_bytes
from llamarec.checkpoints.trainer.saves.best import BestModel
from llamarec.checkpoints.trainer.saves.save_errors import NotResumableError, first_line, is_of_disk, never_saved
from llamarec.checkpoints.trainer.saves.snapshots import Snapshot
from llamarec.credentials import without_credentials
from llamarec.errors import EXIT_KILLED, LlamarecError


class CheckpointWriter:
    """Owns the run's folder while a process trains in it.

    Args:
        run: The folder, locked by this process.
        limit: `save_total_limit`.
        warn: Shows a line to the user.
        in_background: Write while training continues; otherwise `submit` returns when everything is written.
        backup_to: Where every `backup_every`th checkpoint is copied, or an empty text.
        backup_every: See there.
        after_save: Called with the folder of each checkpoint when it is published.
        read_back: Read the first checkpoint back before it takes its name.
        mirror: Copies what is published; None where there is no mirror.

    Attributes:
        last_good: Step of the newest checkpoint that this process published or resumed from.
        best: The best model, and what is owed of it.
        seconds_blocked: Time that training waited for saves.
        fatal: Why no save of this training can succeed, or be resumed; None while nothing says so.
        first_is_due: The first checkpoint of this process is not read back yet.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        limit: int | None,
        warn: Callable[[str], None],
        in_background: bool = True,
        backup_to: str = "",
        backup_every: int = 1,
        after_save: Callable[[Path], object] | None = None,
        read_back: bool = False,
        mirror: MirrorKeeper | None = None,
    ) -> None:
        self._mirror = mirror
        self.first_is_due = read_back
        self.fatal: LlamarecError | None = None
        self._after_save = after_save
        self.run, self.limit, self._warn = run, limit, warn
        self._backup_to, self._backup_every, self._num_saves = backup_to, backup_every, 0
        self._in_background = in_background
        self._pending: _Writing | None = None
        self.best = BestModel(run, warn)
        self._save_error = ""
        self.last_good: int | None = None
        self.last_bytes = 0
        self.seconds_blocked = 0.0

    @property
    def last_error(self) -> str:
        """What is still owed: why the last save failed, or why the best model is not there; empty when all is saved."""
        return self._save_error or self.best.error

    @property
    def owed(self) -> str:
        """`last_error`, or what the mirror lacks once training has ended; empty when all is done."""
        return self.last_error or (self._mirror.behind if self._mirror is not None else "")

    def continue_from(self, step: int, num_bytes: int) -> None:
        """A checkpoint is resumed: it is the newest good one, and the measure of the next one's size.

        Args:
            step: Of the checkpoint.
            num_bytes: What it takes; 0 if unknown.
        """
        self.last_good, self.last_bytes = step, num_bytes

    def submit(self, snapshot: Snapshot) -> None:
        """Writes a snapshot; one at a time, so that memory holds one at most."""
        started = time.perf_counter()
        self.wait()
        if not (self._in_background and self._begun(snapshot)):
            self._write(snapshot)
        self.seconds_blocked += time.perf_counter() - started

    def _begun(self, snapshot: Snapshot) -> bool:
        """Whether a thread of its own writes it; there is none where the system has no room for one."""
        writing = _Writing(self._write, snapshot)
        try:
            writing.start()
        except (RuntimeError, MemoryError):
            return False

        self._pending = writing
        return True

    def wait(self) -> None:
        """Until everything submitted is written (or has failed, which `last_error` says)."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def finish_all(self) -> None:
        """`wait`, and until the mirror has what was published, or has failed as often as it may."""
        self.wait()
        if self._mirror is not None and self._mirror.is_alive():
            self._mirror.finish()
            # What was being copied was not deleted.
            self._rotate_or_warn("the checkpoints are saved")

    def abandon(self) -> None:
        """Leaves a save or a copy that is being written to itself: the user has asked three times."""
        for thread in (self._pending, self._mirror):
            if thread is not None and thread.is_alive():
                atexit.register(_end_while, thread)

    def _write(self, snapshot: Snapshot) -> None:
        step = snapshot.manifest.step
        try:
            self._write_or_warn(snapshot)
        except Exception as error:
            # Nothing about a save ends a training, whatever this has overlooked.
            self.failed(step, error)
        finally:
            # What is owed needs the files that callbacks wrote for it.
            if not self.best.is_owed(step):
                snapshot.discard()

    def _write_or_warn(self, snapshot: Snapshot) -> None:
        step = snapshot.manifest.step
        paid = self.best.pay(snapshot.manifest.best_step, self._publish)
        if paid is not None:
            self.last_good = max(paid, self.last_good or 0)

        try:
            written = self._publish(snapshot)
        except Exception as error:  # torch and safetensors have errors of their own for a full disk
            self.failed(step, error)
            if snapshot.is_best:
                self.best.owe(step, snapshot.to_retry())
            return

        self.last_good, self.last_bytes, self._save_error = step, written.num_bytes, ""
        self.finish(written)
        if self._mirror is not None:
            self._mirror.note(step)
        self._back_up(step)
        self._hand_over(step)

    def _publish(self, snapshot: Snapshot) -> Manifest:
        self._require_space(snapshot)
        check = self._read_back(snapshot) if self.first_is_due and snapshot.read_back is not None else None
        return publish(self.run, snapshot.manifest, snapshot.fill, check)

    def _read_back(self, snapshot: Snapshot) -> Callable[[Path], None]:
        def check(folder: Path) -> None:
            if snapshot.read_back is not None:
                self._warn(snapshot.read_back(folder))
                self.first_is_due = False

        return check

    def finish(self, manifest: Manifest) -> None:
        """What follows when the newest checkpoint is there; also on a resume, since a kill may have come before it."""
        self.best.bring(manifest)
        self._rotate_or_warn(f"checkpoint-{manifest.step} is saved")

    def _rotate_or_warn(self, done: str) -> None:
        try:
            self.rotate()
        except Exception as error:
            self._warn(f"WARNING: {done}, but an old one could not be deleted: {first_line(error)}")

    def _require_space(self, snapshot: Snapshot) -> None:
        needed, free = needed_bytes(self.last_bytes or snapshot.num_bytes), free_bytes(self.run.path)
        if free < needed:
            raise OSError(f"{readable(free)} free on the disk, a checkpoint needs {readable(needed)}")

    def failed(self, step: int, error: Exception) -> None:
        """Warns that a step could not be saved, judges whether a later one can be, remembers it for the exit code."""
        self._judge(step, error)
        self._save_error = f"checkpoint-{step} could not be saved: {first_line(error)}"
        good = f"checkpoint-{self.last_good} is good" if self.last_good is not None else "there is no checkpoint yet"
        follows = "Training continues" if self.fatal is None else "Training stops"
        again = "; the next save tries again" if self.fatal is None else ""
        self._warn(f"WARNING: {self._save_error}. {follows}; {good}{again}.")

    def _judge(self, step: int, error: Exception) -> None:
        """Training stops where no later save can succeed: a full disk passes, another fault comes again."""
        if isinstance(error, NotResumableError):
            self.fatal = error
        elif self.last_good is None and not is_of_disk(error):
            self.fatal = never_saved(step, error)

    def rotate(self) -> None:
        """Deletes what retention does not keep; the newest is verified by now."""
        kept = [saved_checkpoint(verdict) for verdict in inspect(self.run)]
        for step in to_delete(kept, self.limit):
            if self._mirror is None or step != self._mirror.held:
                delete(self.run, step)

    def _back_up(self, step: int) -> None:
        self._num_saves += 1
        if not self._backup_to or self._num_saves % self._backup_every:
            return

        from llamarec.checkpoints.backup.copies import backup

        try:
            backup(self.run.checkpoint(step), self._backup_to)
        except Exception as error:  # whatever a remote file system may raise must not end a training
            to = without_credentials(self._backup_to)
            self._warn(f"WARNING: checkpoint-{step} is saved, its backup to {to} failed: {error}")

    def _hand_over(self, step: int) -> None:
        if self._after_save is None:
            return
        try:
            self._after_save(self.run.checkpoint(step))
        except Exception as error:  # the user's own code must not end a training either
            self._warn(f"WARNING: checkpoint-{step} is saved, after_save failed: {type(error).__name__}: {error}")


class _Writing(threading.Thread):
    """One save in the background.

    A daemon, so that it can be abandoned: a save that is cut off is none, which costs nothing else.
    """

    def __init__(self, write: Callable[[Snapshot], None], snapshot: Snapshot) -> None:
        super().__init__(name="checkpoint-saver", daemon=True)
        self._write, self._snapshot = write, snapshot
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._write(self._snapshot)
        except BaseException as error:
            self._error = error

    def result(self) -> None:
        """Waits, and raises what was raised there."""
        self.join()
        if self._error is not None:
            raise self._error


def _end_while(thread: threading.Thread) -> None:
    """At the process's end: an interpreter that is taken down under a running thread may crash."""
    if thread.is_alive():
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(EXIT_KILLED)
