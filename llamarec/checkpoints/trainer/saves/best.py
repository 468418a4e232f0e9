"""The best model as a training's saves keep it: in the run's folder, or owed to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llamarec.checkpoints.storage.best_model import publish_best
from llamarec.checkpoints.storage.discovery import best_in
from llamarec.checkpoints.storage.entries import kind_of
from llamarec.checkpoints.storage.layout import RunFolder, is_of_model
from llamarec.checkpoints.storage.manifest import Manifest, read_manifest
from llamarec.checkpoints.storage.publish import Staging
from llamarec.checkpoints.storage.verification import verify, verify_best
from llamarec.checkpoints.trainer.saves.save_errors import first_line
from llamarec.checkpoints.trainer.saves.snapshots import Snapshot
from llamarec.checkpoints.trainer.saves.staged_files import copy_file
from llamarec.errors import CheckpointError


class BestModel:
    """Brings the best model into the run's folder, and remembers what it still owes.

    Args:
        run: The folder, locked by this process.
        warn: Shows a line to the user.

    Attributes:
        error: Why the best model is not in the folder, though training has had it; empty when it is.
    """

    def __init__(self, run: RunFolder, warn: Callable[[str], None]) -> None:
        self._run, self._warn = run, warn
        self._owed: Snapshot | None = None
        self._failed_step: int | None = None
        self._hashed_step: int | None = None
        self.error = ""

    def owe(self, step: int, make: Callable[[], Snapshot] | None) -> None:
        """The save of the best model failed: it is nowhere but in memory, from where a later save writes it.

        Args:
            step: Of the model.
            make: Makes the snapshot to keep, while the model is still that of the step; None where it cannot be kept.
        """
        self._failed_step = step
        why = "this Trainer writes its model itself"
        try:
            owed = make() if make is not None else None
        except Exception as error:
            owed, why = None, f"it could not be kept in memory: {type(error).__name__}: {first_line(error)}"

        self._keep(owed)
        if owed is not None:
            self.error = f"the best model (step {step}) is only in memory"
            return

        self.error = f"the best model (step {step}) is lost: its save failed, and {why}"
        self._warn(f"WARNING: {self.error}. Training continues; a better one takes its place.")

    def miss(self, step: int | None) -> None:
        """The best model of this step is gone at the end of training."""
        self.error = self.error or f"the best model (step {step}) is gone"

    def is_owed(self, step: int) -> bool:
        """Whether the best model of this step waits for a later save."""
        return self._owed is not None and self._owed.manifest.step == step

    def pay(self, best_step: int | None, write: Callable[[Snapshot], object]) -> int | None:
        """Writes what is owed, unless a better model has come since.

        Args:
            best_step: Step of the best model now.
            write: Publishes a snapshot.

        Returns:
            Step of the checkpoint that was written; None where there is none.
        """
        owed = self._owed
        if owed is None or owed.manifest.step != best_step:
            self._keep(None)
            return None

        try:
            write(owed)
        except Exception as error:
            self._warn(f"WARNING: the best model (step {best_step}) still could not be saved: {first_line(error)}")
            return None

        self._keep(None)
        return best_step

    def _keep(self, owed: Snapshot | None) -> None:
        before, self._owed = self._owed, owed
        if before is not None and before is not owed:
            before.discard()

    def bring(self, manifest: Manifest) -> None:
        """Makes the model in the run's folder itself the best one as of a checkpoint, if it is not that already.

        The checkpoint that holds the best model is hashed only where something is to be copied from it.
        """
        try:
            self._bring(manifest.best_step)
        except Exception as error:
            self.error = f"the best model could not be put into {self._run.path}: {first_line(error)}"
            again = "The next save tries again"
            self._warn(f"WARNING: checkpoint-{manifest.step} is saved, but {self.error}. {again}.")
        else:
            self.error = ""

    def _bring(self, step: int | None) -> None:
        if step is None:
            return

        source = self._run.checkpoint(step)
        of_best = self._manifest_of(source, step)
        if of_best is None:
            return

        files = {name: entry for name, entry in of_best.files.items() if is_of_model(name)}
        there = best_in(self._run)
        is_listed = there is not None and there.step == step and there.files == files
        if is_listed and self._is_whole(step):
            return

        # Never a damaged one under fresh hashes: the old best model stays.
        verdict = verify(source)
        if verdict.health == "damaged":
            raise CheckpointError(f"{source.name} holds it and is damaged: {verdict.reason}")

        if is_listed:
            self._warn(
                f"note: the best model in {self._run.path} was changed after it was saved; restored from {source.name}"
            )
        publish_best(self._run, replace(of_best, files={}), lambda staging: _copy(source, sorted(files), staging))
        self._hashed_step = step

    def _manifest_of(self, checkpoint: Path, step: int) -> Manifest | None:
        """The manifest of the checkpoint that holds the best model; None where there is nothing to copy.

        Raises:
            CheckpointError: it cannot be read, or its own save failed, and the best model is not in the folder.
        """
        unread: CheckpointError | None = None
        try:
            found = read_manifest(checkpoint) if kind_of(checkpoint) != "nothing" else None
        except CheckpointError as error:
            found, unread = None, error

        if found is not None:
            return found

        there = best_in(self._run)
        if there is not None and there.step == step and self._is_whole(step):
            return None
        if unread is not None:
            raise unread
        if step == self._failed_step:
            raise CheckpointError(f"checkpoint-{step}, which holds it, could not be saved")

        # A plain Trainer's, or a copy of the newest checkpoint alone.
        return None

    def _is_whole(self, step: int) -> bool:
        """Hashed once in a process, since at a save that takes as long as writing it; then by names and sizes."""
        is_whole = verify_best(self._run.path, deep=self._hashed_step != step).health == "good"
        self._hashed_step = step if is_whole else None

        return is_whole


def _copy(source: Path, names: list[str], staging: Staging) -> None:
    for name in names:
        target = staging.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(source / name, name, staging)
