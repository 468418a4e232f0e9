"""The thread that keeps a mirror: it copies what is published here, and deletes there what retention does not keep."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from llamarec.checkpoints.backup.copies import backup, locked, remove_copy
from llamarec.checkpoints.backup.stores import Store
from llamarec.checkpoints.mirror.fetching import check_is_of
from llamarec.checkpoints.mirror.inventory import RESTARTED, Inventory, inventory_of
from llamarec.checkpoints.mirror.pauses import Pauses
from llamarec.checkpoints.storage.discovery import of_this_run
from llamarec.checkpoints.storage.entries import read_bytes
from llamarec.checkpoints.storage.layout import MANIFEST, RunFolder, max_bytes_of, step_of
from llamarec.checkpoints.storage.manifest import Manifest, parse_manifest
from llamarec.checkpoints.storage.recovery import recover
from llamarec.checkpoints.storage.restart import note_of
from llamarec.checkpoints.storage.retention import SavedCheckpoint, to_delete
from llamarec.errors import LlamarecError


@dataclass(frozen=True, kw_only=True)
class Continued:
    """How a training follows from what its mirror may hold.

    Attributes:
        run_id: Of the training.
        first_sequence: Number of its first save.
        is_restart: What the mirror holds is from before a restart.
    """

    run_id: str
    first_sequence: int
    is_restart: bool


# Added to the numbers of this training's saves: whatever else is in the mirror counts as older.
_OURS: Final = 2**40


class MirrorKeeper(threading.Thread):
    """Keeps a mirror of a run, while and after it trains. Training never waits for it before its end.

    A daemon, so that it can be abandoned: a copy that is cut off is none.

    Args:
        mirror: Where to copy to.
        run: The run's folder, locked by this process.
        limit: `save_total_limit`, which counts there as here.
        warn: Shows a line to the user.
        pauses: Between tries.

    Attributes:
        held: Step of the checkpoint that is being copied, and so must not be deleted here; None between copies.
    """

    def __init__(
        self,
        mirror: Store,
        run: RunFolder,
        *,
        limit: int | None,
        warn: Callable[[str], object],
        pauses: Pauses | None = None,
    ) -> None:
        super().__init__(name="checkpoint-mirror", daemon=True)
        self._mirror = replace(mirror, pulse=self._beat)
        self._run, self._limit, self._warn, self._pauses = run, limit, warn, pauses or Pauses()
        self._continued: Continued | None = None
        # Steps to copy, each with the number of its request; the newest request last.
        self._wanted: dict[int, int] = {}
        self._num_requests = 0
        self._there: dict[int, SavedCheckpoint] = {}
        self._is_known = self._is_rotated = False
        self._is_closing = False
        self._changed = threading.Condition()
        self._problem = ""
        self._last_beat = time.monotonic()
        self.held: int | None = None

    # ---- Called by the training ----

    def begin(self, continued: Continued) -> None:
        """Starts copying: what is here and not there, then what is published."""
        self._continued = continued
        try:
            self._get_to_know()
            self.start()
        except Exception as error:  # neither a store nor a system without room for a thread ends a training
            self._say_problem(error)
            with contextlib.suppress(RuntimeError, MemoryError):
                self.start()

    def note(self, step: int) -> None:
        """A checkpoint of this step is published. Returns at once."""
        with self._changed:
            self._num_requests += 1
            self._wanted.pop(step, None)
            self._wanted[step] = self._num_requests
            self._changed.notify_all()

    def finish(self) -> None:
        """Waits, once, until everything is copied, or has failed as often as it may, or nothing moves any more."""
        with self._changed:
            if self._is_closing:
                return
            self._is_closing = True
            self._changed.notify_all()
        self._beat()
        while self.is_alive() and time.monotonic() - self._last_beat < self._pauses.silence:
            self.join(0.1)
        if self.behind:
            self._warn(f"WARNING: {self.behind}")

    @property
    def behind(self) -> str:
        """What the mirror lacks, and why; empty where it has everything."""
        if self._continued is None or (self._is_known and not self._wanted):
            return ""
        missing = ", ".join(f"checkpoint-{step}" for step in sorted(self._wanted))
        missing = f"it lacks {missing}" if missing else "what it lacks is unknown"
        why = self._problem or "it does not answer"
        return (
            f"the mirror {self._mirror.url} is behind: {missing} ({why}). "
            f"To copy by hand: llamarec checkpoints backup {self._run.path} ADDRESS"
        )

    # ---- In the thread ----

    def run(self) -> None:
        """Copies until training has ended and nothing is left to copy."""
        failures = tries_left = 0
        while self._has_work():
            if self._is_closing:
                tries_left += 1
            try:
                self._work()
            except Exception as error:  # whatever a driver may raise must not end the copying of what follows
                failures += 1
                self._say_problem(error)
                if self._is_closing and tries_left >= self._pauses.last_tries:
                    return
                self._pause(self._pauses.after(failures if not self._is_closing else max(tries_left, 1)))
            else:
                failures = tries_left = 0
                self._say_caught_up()

    def _has_work(self) -> bool:
        """Waits for something to do; False where there is nothing any more."""
        with self._changed:
            while not self._is_owed and not self._is_closing:
                self._changed.wait()
            return self._is_owed

    @property
    def _is_owed(self) -> bool:
        return bool(self._wanted) or not self._is_known or not self._is_rotated

    def _pause(self, seconds: float) -> None:
        """Until the next try; the end of training ends the pause."""
        with self._changed:
            was_closing = self._is_closing
            self._changed.wait_for(lambda: self._is_closing and not was_closing, timeout=seconds)
        self._beat()

    def _work(self) -> None:
        if not self._is_known:
            self._get_to_know()
        step, request = self._next()
        if step is not None:
            self._is_rotated = False
            copied = self._copy(step)
            with self._changed:
                if self._wanted.get(step) == request:
                    del self._wanted[step]
            if copied is not None:
                self._there[step] = self._as_ours(copied)
        self._rotate()

    def _next(self) -> tuple[int | None, int]:
        """The newest of what is to be copied: what a resume needs most."""
        with self._changed:
            return next(reversed(self._wanted.items()), (None, 0))

    def _copy(self, step: int) -> Manifest | None:
        """Copies a checkpoint; None where retention has deleted it here meanwhile."""
        checkpoint = self._run.checkpoint(step)
        self.held = step
        try:
            if not checkpoint.is_dir():
                return None
            raw = read_bytes(checkpoint / MANIFEST, max_bytes_of(MANIFEST))
            backup(checkpoint, self._mirror, replace=True)
            return parse_manifest(raw, str(checkpoint))
        except (LlamarecError, OSError):
            if not checkpoint.is_dir():
                return None
            raise
        finally:
            self.held = None

    def _rotate(self) -> None:
        """Deletes what retention does not keep; the newest copy is verified by now."""
        for step in to_delete(list(self._there.values()), self._limit):
            remove_copy(self._mirror.below(f"checkpoint-{step}"))
            del self._there[step]
        self._is_rotated = True

    # ---- The first contact ----

    def _get_to_know(self) -> None:
        """Looks at what the mirror has, clears what was cut off, and decides what it lacks.

        Raises:
            CheckpointError: it holds another run.
        """
        assert self._continued is not None
        if self._mirror.is_local:
            here = RunFolder(Path(self._mirror.path))
            with locked(here, self._mirror.url):
                recover(here)
        inventory = inventory_of(self._mirror)
        if self._continued.is_restart:
            self._supersede(inventory)
        else:
            check_is_of(inventory, self._mirror, self._continued.run_id)
            if any(one.manifest.run_id == self._continued.run_id for one in inventory.checkpoints if one.is_superseded):
                self._mirror.remove(RESTARTED)

        for name in inventory.unfinished:
            remove_copy(self._mirror.below(name))
        self._there = {one.manifest.step: _saved(one.manifest) for one in inventory.checkpoints}
        self._want_missing(inventory)
        self._is_known = True

    def _supersede(self, inventory: Inventory) -> None:
        """A restart: what the mirror holds does not count any more, even if this run never copies anything there."""
        before = {
            one.name: one.manifest.sequence
            for one in inventory.checkpoints
            if self._continued is not None and one.manifest.run_id != self._continued.run_id
        }
        if before:
            self._mirror.write(RESTARTED, [note_of(before)])

    def _as_ours(self, manifest: Manifest) -> SavedCheckpoint:
        """A copy made now, as retention sees it: what this training saves is newer than what it found in the mirror."""
        saved = _saved(manifest)
        is_ours = self._continued is not None and saved.sequence >= self._continued.first_sequence
        return replace(saved, sequence=saved.sequence + _OURS) if is_ours else saved

    def _want_missing(self, inventory: Inventory) -> None:
        """What is here and not there, before what is published meanwhile."""
        there = {one.name: one.raw for one in inventory.checkpoints}
        with self._changed:
            published, self._wanted = self._wanted, {}
            for path in reversed(of_this_run(self._run)):
                step = step_of(path)
                if step is not None and _manifest_bytes(path) not in (None, there.get(path.name)):
                    self._wanted[step] = 0
            for step, request in published.items():
                self._wanted.pop(step, None)
                self._wanted[step] = request

    # ---- What is said ----

    def _beat(self) -> None:
        self._last_beat = time.monotonic()

    def _say_problem(self, error: Exception) -> None:
        """Once for each time that it stops working."""
        was_well, problem = not self._problem, _text_of(error)
        self._problem = problem
        if was_well:
            self._warn(
                f"WARNING: the mirror {self._mirror.url} is not up to date: {problem}. "
                "Training continues; the copies are tried again."
            )

    def _say_caught_up(self) -> None:
        if self._problem and not self._wanted:
            self._problem = ""
            self._warn(f"note: the mirror {self._mirror.url} is up to date again")


def _saved(manifest: Manifest) -> SavedCheckpoint:
    return SavedCheckpoint(manifest.step, manifest.sequence, True, manifest.reason, manifest.best_step)


def _manifest_bytes(checkpoint: Path) -> bytes | None:
    try:
        return read_bytes(checkpoint / MANIFEST, max_bytes_of(MANIFEST))
    except OSError:
        return None


def _text_of(error: Exception) -> str:
    if not isinstance(error, LlamarecError):
        return f"{type(error).__name__}: {error}"
    found = (error.found or "").partition("\n")[0]
    return f"{error.problem}: {found}" if found else error.problem
