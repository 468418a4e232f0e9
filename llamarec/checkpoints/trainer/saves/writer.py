"""Writes snapshots, one after the other, in the background: publish, verify, best model, retention, backup."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from llamarec.checkpoints.storage.best_model import publish_best
from llamarec.checkpoints.storage.discovery import best_in, inspect, saved_checkpoint
from llamarec.checkpoints.storage.entries import chunks_of
from llamarec.checkpoints.storage.layout import RunFolder, is_of_model
from llamarec.checkpoints.storage.manifest import Manifest, read_manifest
from llamarec.checkpoints.storage.publish import Staging, delete, publish
from llamarec.checkpoints.storage.readable_units import readable
from llamarec.checkpoints.storage.retention import to_delete
from llamarec.checkpoints.storage.space import free_bytes, needed_bytes
from llamarec.checkpoints.storage.verification import verify, verify_best
from llamarec.checkpoints.trainer.saves.save_errors import NotResumableError, is_of_disk, never_saved
from llamarec.errors import EXIT_KILLED, CheckpointError, LlamarecError


def _nothing() -> None:
    """There is nothing to discard."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A checkpoint in memory.

    Attributes:
        manifest: All but the files.
        fill: Writes the files.
        num_bytes: About what they take.
        can_retry: `fill` may be called a second time.
        discard: Removes temporary files of it beside the checkpoints.
        read_back: Compares the written folder with this; returns what to tell the user.
    """

    manifest: Manifest
    fill: Callable[[Staging], None]
    num_bytes: int
    can_retry: bool = False
    discard: Callable[[], None] = _nothing
    read_back: Callable[[Path], str] | None = None


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

    Attributes:
        last_good: Step of the newest checkpoint that this process published or resumed from.
        last_error: Why the last save failed; empty when it did not.
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
    ) -> None:
        self.first_is_due, self.fatal = read_back, None  # type: bool, LlamarecError | None
        self._after_save = after_save
        self.run, self.limit, self._warn = run, limit, warn
        self._backup_to, self._backup_every, self._num_saves = backup_to, backup_every, 0
        self._in_background = in_background
        self._pending: _Writing | None = None
        self._owed: Snapshot | None = None
        self._hashed_best: int | None = None
        self.last_good: int | None = None
        self.last_bytes = 0
        self.last_error = ""
        self.seconds_blocked = 0.0

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
        if self._in_background:
            self._pending = _Writing(self._write, snapshot)
        else:
            self._write(snapshot)
        self.seconds_blocked += time.perf_counter() - started

    def wait(self) -> None:
        """Until everything submitted is written (or has failed, which `last_error` says)."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def abandon(self) -> None:
        """Leaves a save that is being written to itself: the user has asked three times."""
        if self._pending is not None and self._pending.is_alive():
            atexit.register(_end_while, self._pending)

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self._write_or_warn(snapshot)
        finally:
            snapshot.discard()

    def _write_or_warn(self, snapshot: Snapshot) -> None:
        step, best_step = snapshot.manifest.step, snapshot.manifest.best_step
        self._write_owed(best_step)

        try:
            written = self._publish(snapshot)
        except Exception as error:  # torch and safetensors have errors of their own for a full disk
            self.failed(step, error)
            if step == best_step and snapshot.can_retry:
                self._owed = snapshot
            return

        self.last_good, self.last_bytes, self.last_error = step, written.num_bytes, ""
        self.finish(written)
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

    def _write_owed(self, best_step: int | None) -> None:
        """The best model so far, if its own save failed: it is nowhere but in memory."""
        if self._owed is None or self._owed.manifest.step != best_step:
            self._owed = None
            return

        try:
            self._publish(self._owed)
        except Exception as error:
            self._warn(f"WARNING: the best model (step {best_step}) still could not be saved: {_first_line(error)}")
            return

        self._owed = None

    def finish(self, manifest: Manifest) -> None:
        """What follows when the newest checkpoint is there; also on a resume, since a kill may have come before it."""
        step = manifest.step

        try:
            self.bring_best(manifest)
        except (OSError, LlamarecError) as error:
            self.last_error = f"the best model could not be put into {self.run.path}: {_first_line(error)}"
            self._warn(f"WARNING: checkpoint-{step} is saved, but {self.last_error}. The next save tries again.")

        try:
            self.rotate()
        except OSError as error:
            self._warn(f"WARNING: checkpoint-{step} is saved, but an old one could not be deleted: {error}")

    def _require_space(self, snapshot: Snapshot) -> None:
        needed, free = needed_bytes(self.last_bytes or snapshot.num_bytes), free_bytes(self.run.path)
        if free < needed:
            raise OSError(f"{readable(free)} free on the disk, a checkpoint needs {readable(needed)}")

    def failed(self, step: int, error: Exception) -> None:
        """Warns that a step could not be saved, judges whether a later one can be, remembers it for the exit code."""
        self._judge(step, error)
        self.last_error = f"checkpoint-{step} could not be saved: {_first_line(error)}"
        good = f"checkpoint-{self.last_good} is good" if self.last_good is not None else "there is no checkpoint yet"
        follows = "Training continues" if self.fatal is None else "Training stops"
        again = "; the next save tries again" if self.fatal is None else ""
        self._warn(f"WARNING: {self.last_error}. {follows}; {good}{again}.")

    def _judge(self, step: int, error: Exception) -> None:
        """Training stops where no later save can succeed: a full disk passes, another fault comes again."""
        if isinstance(error, NotResumableError):
            self.fatal = error
        elif self.last_good is None and not is_of_disk(error):
            self.fatal = never_saved(step, error)

    def bring_best(self, manifest: Manifest) -> None:
        """Makes the model in the run's folder itself the best one as of a checkpoint, if it is not that already.

        The checkpoint that holds the best model is hashed only where something is to be copied from it.
        """
        step = manifest.best_step
        source = self.run.checkpoint(step) if step is not None else None
        of_best = _manifest_of(source) if source is not None else None
        if source is None or of_best is None:
            return

        files = {name: entry for name, entry in of_best.files.items() if is_of_model(name)}
        there = best_in(self.run)
        is_listed = there is not None and there.step == step and there.files == files
        if is_listed and self._best_is_whole(step):
            return

        # Never a damaged one under fresh hashes: the old best model stays.
        if verify(source).health == "damaged":
            return

        if is_listed:
            self._warn(
                f"note: the best model in {self.run.path} was changed after it was saved; restored from {source.name}"
            )
        publish_best(self.run, replace(of_best, files={}), lambda staging: _copy(source, sorted(files), staging))
        self._hashed_best = step

    def _best_is_whole(self, step: int | None) -> bool:
        """Hashed once in a process, since at a save that takes as long as writing it; then by names and sizes."""
        is_whole = verify_best(self.run.path, deep=self._hashed_best != step).health == "good"
        self._hashed_best = step if is_whole else None

        return is_whole

    def rotate(self) -> None:
        """Deletes what retention does not keep; the newest is verified by now."""
        kept = [saved_checkpoint(verdict) for verdict in inspect(self.run)]
        for step in to_delete(kept, self.limit):
            delete(self.run, step)

    def _back_up(self, step: int) -> None:
        self._num_saves += 1
        if not self._backup_to or self._num_saves % self._backup_every:
            return

        from llamarec.checkpoints.backup.copies import backup

        try:
            backup(self.run.checkpoint(step), self._backup_to)
        except Exception as error:  # whatever a remote file system may raise must not end a training
            self._warn(f"WARNING: checkpoint-{step} is saved, its backup to {self._backup_to} failed: {error}")

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
        self.start()

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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _manifest_of(checkpoint: Path) -> Manifest | None:
    """The manifest of a checkpoint; None where there is none that can be read."""
    with contextlib.suppress(CheckpointError):
        return read_manifest(checkpoint)

    return None


def _copy(source: Path, names: list[str], staging: Staging) -> None:
    for name in names:
        target = staging.path / name
        target.parent.mkdir(parents=True, exist_ok=True)

        def write(file: BinaryIO, path: Path = source / name) -> None:
            for chunk in chunks_of(path):
                file.write(chunk)

        staging.write_with(name, write)
