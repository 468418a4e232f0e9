"""Staging, publishing, replacing and deleting checkpoints, and recovery after a kill.

Publishing is one rename of a folder whose files, manifest and entries are synced already. Saving a step again first
renames the old folder aside; `recover` repairs a kill between the two renames.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final, cast

from llamarec.checkpoints.config import ProgramHints
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.layout import BEST_MANIFEST, MANIFEST, RunFolder
from llamarec.checkpoints.storage.manifest import FileEntry, Manifest, read_manifest
from llamarec.checkpoints.storage.os_errors import advice
from llamarec.errors import CheckpointError

NOT_AS_WRITTEN: Final = "reads back differently from what was written"
"""Words of the errors for a disk that did not keep what was written; `is_of_disk` looks for them."""


@dataclass
class Staging:
    """A folder that is being filled; its files are hashed on the way to the disk.

    Attributes:
        path: The folder.
        files: Files written so far, by path relative to the folder, with forward slashes.
    """

    path: Path
    files: dict[str, FileEntry] = field(default_factory=dict)

    def write(self, name: str, data: bytes) -> None:
        """Adds a file."""
        self.write_with(name, lambda file: file.write(data))

    def write_with(self, name: str, writer: Callable[[BinaryIO], object]) -> None:
        """Adds a file that `writer` writes, front to back.

        Raises:
            OSError: the disk is full or cannot be written, whatever error the writer turned that into.
        """
        with durable.hashing_file(self.path / name) as file:
            try:
                writer(cast(BinaryIO, file))
            except Exception as error:
                if file.error is not None and error is not file.error:
                    raise file.error from error
                raise

            digest = file.sync_and_close()
            self.files[name] = FileEntry(file.num_bytes, digest)

    def adopt(self) -> None:
        """Hashes and syncs the files that other code wrote into the folder."""
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if path.is_file() and name not in self.files:
                self.files[name] = FileEntry(*durable.seal_file(path))

    def finish(self, name: str, content: bytes) -> None:
        """Writes the manifest as the last file, then syncs all folders."""
        durable.write_file(self.path / name, content)
        for folder in sorted((path for path in self.path.rglob("*") if path.is_dir()), reverse=True):
            durable.fsync_folder(folder)
        durable.fsync_folder(self.path)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Staging]:
    """An empty staging folder; an exception while it is filled removes it again."""
    if path.exists():
        durable.remove_tree(path)
    durable.announce("make", path)
    path.mkdir(parents=True)

    try:
        yield Staging(path)
    except BaseException:
        with contextlib.suppress(OSError):
            durable.remove_tree(path)
        raise


def publish(
    run: RunFolder,
    manifest: Manifest,
    fill: Callable[[Staging], None],
    check: Callable[[Path], object] | None = None,
) -> Manifest:
    """Writes `checkpoint-{step}`, all of it or nothing.

    Args:
        run: The run's folder, locked by this process.
        manifest: The manifest without its files.
        fill: Writes the files into the staging folder.
        check: Called with the finished folder before the rename; an error that it raises ends the save.

    Returns:
        The manifest, complete with its files.

    Raises:
        OSError: the disk is full or cannot be written; existing checkpoints are unchanged.
        CheckpointError: the files read back differently from what was written.
    """
    with staged(run.saving(manifest.step)) as staging:
        fill(staging)
        staging.adopt()
        complete = replace(manifest, files=dict(sorted(staging.files.items())))
        staging.finish(MANIFEST, complete.to_bytes())

        # Read back before the rename, which may replace a good checkpoint of the same step.
        if not _is_complete(staging.path):
            raise CheckpointError(f"checkpoint-{manifest.step} {NOT_AS_WRITTEN}")
        if check is not None:
            check(staging.path)
        take_name(run, manifest.step)
    return complete


def take_name(run: RunFolder, step: int) -> None:
    """Gives a finished staging folder its name, replacing a checkpoint that has it."""
    final, replaced = run.checkpoint(step), run.replaced(step)
    if final.exists():
        if replaced.exists():
            durable.remove_tree(replaced)
        durable.rename(final, replaced)
    try:
        durable.rename(run.saving(step), final)
    except OSError:
        if replaced.exists():
            durable.rename(replaced, final)
        raise
    durable.fsync_folder(run.path)

    if replaced.exists():
        # The save is good even if the old folder cannot be deleted; `recover` tries again.
        with contextlib.suppress(OSError):
            durable.remove_tree(replaced)


def delete(run: RunFolder, step: int) -> None:
    """Deletes a checkpoint: one rename takes its name away, then its files are removed."""
    doomed = run.deleting(step)
    if doomed.exists():
        durable.remove_tree(doomed)
    durable.rename(run.checkpoint(step), doomed)
    durable.fsync_folder(run.path)
    durable.remove_tree(doomed)


def recover(run: RunFolder, hints: ProgramHints | None = None) -> list[str]:
    """Finishes or removes what a killed save or deletion left; the caller holds the run's lock.

    Args:
        run: The folder.
        hints: Advice in the program's words.

    Returns:
        One sentence for each thing done.

    Raises:
        CheckpointError: the folder cannot be written; nothing is lost.
    """
    try:
        return _recover(run)
    except OSError as error:
        raise CheckpointError(
            f"the leftovers of a killed save in {run.path} could not be removed",
            found=str(error),
            hint=advice(error, run.path, (hints or ProgramHints()).other_folder),
        ) from error


def _recover(run: RunFolder) -> list[str]:
    done = []
    left = run.leftovers()
    # A step killed between two renames has no checkpoint: use the new folder if it is complete, else the old one.
    for kind, step in sorted(left, key=lambda item: item[0] != "saving"):
        final = run.checkpoint(step)
        if kind == "saving" and not final.exists() and _is_complete(run.saving(step)):
            durable.rename(run.saving(step), final)
            done.append(f"{final.name}: finished; the save was killed just before its last rename")
        elif kind == "replaced" and not final.exists():
            durable.rename(run.replaced(step), final)
            done.append(f"{final.name}: put back; the save that should have replaced it was killed")

    for kind, step in run.leftovers():
        folder = {"saving": run.saving, "replaced": run.replaced, "deleting": run.deleting}[kind](step)
        durable.remove_tree(folder)
        done.append(f"{folder.name}: cleared; left by a killed {'save' if kind != 'deleting' else 'deletion'}")

    if run.path.is_dir():
        for folder in sorted(run.path.glob(".live-*")):
            durable.remove_tree(folder)
        done += _recover_best(run)
        durable.fsync_folder(run.path)
    return done


def publish_best(run: RunFolder, manifest: Manifest, fill: Callable[[Staging], None]) -> None:
    """Writes the best model into the run's folder itself.

    The folder cannot be renamed because it contains the checkpoints. So the files are staged with their manifest; once
    that is complete, `recover` finishes a move that a kill interrupts. Each file is replaced whole, and the files fit
    together between any two renames, because the configuration does not change within a run.
    """
    # An interrupted move leaves files that exist nowhere else.
    _recover_best(run)

    with staged(run.best_staging) as staging:
        fill(staging)
        staging.adopt()
        complete = replace(manifest, files=dict(sorted(staging.files.items())))
        staging.finish(BEST_MANIFEST, complete.to_bytes())
        durable.fsync_folder(run.path)
    _move_best(run)


def _move_best(run: RunFolder) -> None:
    staging = run.best_staging
    stale = _only_in_old_best(run)
    for path in [path for path in sorted(staging.iterdir()) if path.name != BEST_MANIFEST]:
        target = run.path / path.name
        if path.is_dir() and target.is_dir():
            durable.remove_tree(target)
        durable.rename(path, target)
    for name in stale:
        # Weights in another format: a reader could not tell which file counts.
        durable.unlink(run.path / name)
    durable.fsync_folder(run.path)

    # Last: the move is unfinished as long as best.json is in the staging folder.
    durable.rename(staging / BEST_MANIFEST, run.path / BEST_MANIFEST)
    durable.fsync_folder(run.path)
    durable.remove_tree(staging)


def _only_in_old_best(run: RunFolder) -> list[str]:
    try:
        old, new = read_best(run.path), read_best(run.best_staging)
    except CheckpointError:
        return []
    return sorted(old.files.keys() - new.files.keys()) if old and new else []


def _recover_best(run: RunFolder) -> list[str]:
    staging = run.best_staging
    if not staging.is_dir():
        return []

    if (staging / BEST_MANIFEST).is_file():
        try:
            manifest = read_best(staging)
        except CheckpointError:
            manifest = None
        # Some files may have been moved into the run's folder already.
        if manifest and all(
            _matches(staging / name, entry) or _matches(run.path / name, entry)
            for name, entry in manifest.files.items()
        ):
            _move_best(run)
            return [f"best model of step {manifest.step}: finished; its save was killed"]

    durable.remove_tree(staging)
    return ["best model: an unfinished save was cleared"]


def read_best(folder: Path) -> Manifest | None:
    """The manifest of the best model in a run's folder; None if there is none.

    Raises:
        CheckpointError: the manifest is damaged.
    """
    return read_manifest(folder, BEST_MANIFEST)


def _is_complete(folder: Path) -> bool:
    try:
        manifest = read_manifest(folder)
    except CheckpointError:
        return False
    return manifest is not None and all(_matches(folder / name, entry) for name, entry in manifest.files.items())


def _matches(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.num_bytes and durable.sha256_of(path) == entry.sha256
