"""Staging, publishing, swapping and deleting checkpoints, and clearing up after a kill. Standard library only.

Publishing is one rename of a folder whose files, manifest and entries are on the medium already. Saving a step again
renames the old folder aside first; a kill between the two renames is mended by `recover`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, cast

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.layout import BEST_MANIFEST, MANIFEST, RunFolder
from llamarec.checkpoints.storage.manifest import FileEntry, Manifest, read_manifest
from llamarec.errors import CheckpointError


@dataclass
class Staging:
    """A folder that is being filled; its files are hashed on the way to the disk.

    Attributes:
        path: The folder.
        files: What was written so far, by path relative to the folder, with forward slashes.
    """

    path: Path
    files: dict[str, FileEntry] = field(default_factory=dict)

    def write(self, name: str, data: bytes) -> None:
        """Adds a file."""
        self.write_with(name, lambda file: file.write(data))

    def write_with(self, name: str, writer: Callable[[BinaryIO], object]) -> None:
        """Adds a file that `writer` writes, front to back.

        Raises:
            OSError: the disk is full or cannot be written, whatever the writer makes of that.
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
        """Hashes and syncs what others wrote into the folder by its path."""
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if path.is_file() and name not in self.files:
                self.files[name] = FileEntry(*durable.seal_file(path))

    def finish(self, name: str, content: bytes) -> None:
        """Writes the manifest, last, and syncs all folders."""
        durable.write_file(self.path / name, content)
        for folder in sorted((path for path in self.path.rglob("*") if path.is_dir()), reverse=True):
            durable.fsync_folder(folder)
        durable.fsync_folder(self.path)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Staging]:
    """An empty staging folder, removed again when its filling fails (a full disk, an exception)."""
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
    """Makes `checkpoint-{step}` out of what `fill` writes; all of it or nothing.

    Args:
        run: The run's folder, locked by this process.
        manifest: All but the files.
        fill: Writes the files.
        check: Called with the finished folder before it takes its name; what it raises ends the save.

    Returns:
        The manifest with its files.

    Raises:
        OSError: the disk is full or cannot be written; what was there before is untouched.
    """
    with staged(run.saving(manifest.step)) as staging:
        fill(staging)
        staging.adopt()
        complete = replace(manifest, files=dict(sorted(staging.files.items())))
        staging.finish(MANIFEST, complete.to_bytes())
        # Read back before it takes the name: an old one of the same step is good.
        if not _is_complete(staging.path):
            raise CheckpointError(f"checkpoint-{manifest.step} is not on the disk as it was written")
        if check is not None:
            check(staging.path)
        take_name(run, manifest.step)
    return complete


def take_name(run: RunFolder, step: int) -> None:
    """Gives a finished staging folder its name; one of the same name before it goes."""
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
        # The save is good, whether or not the old one can be deleted; `recover` tries again.
        with contextlib.suppress(OSError):
            durable.remove_tree(replaced)


def delete(run: RunFolder, step: int) -> None:
    """Deletes a checkpoint: it stops being one at once, then its files go."""
    doomed = run.deleting(step)
    if doomed.exists():
        durable.remove_tree(doomed)
    durable.rename(run.checkpoint(step), doomed)
    durable.fsync_folder(run.path)
    durable.remove_tree(doomed)


def recover(run: RunFolder) -> list[str]:
    """Finishes or clears what a killed save or deletion left; the caller holds the run's lock.

    Returns:
        What was done, one sentence each.

    Raises:
        CheckpointError: the folder cannot be written. Nothing is lost by that.
    """
    try:
        return _recover(run)
    except OSError as error:
        raise CheckpointError(
            f"what a killed save left in {run.path} could not be cleared",
            found=str(error),
            hint="make room on the disk, or make the folder writable, and try again",
        ) from error


def _recover(run: RunFolder) -> list[str]:
    done = []
    left = run.leftovers()
    # A step that was being replaced has no checkpoint: the new one if it is complete, else the old one back.
    for kind, step in sorted(left, key=lambda item: item[0] != "saving"):
        final = run.checkpoint(step)
        if kind == "saving" and not final.exists() and _is_complete(run.saving(step)):
            durable.rename(run.saving(step), final)
            done.append(f"{final.name}: a save that was killed in its last moment is finished")
        elif kind == "replaced" and not final.exists():
            durable.rename(run.replaced(step), final)
            done.append(f"{final.name}: put back; the save that was to replace it was killed")
    for kind, step in run.leftovers():
        folder = {"saving": run.saving, "replaced": run.replaced, "deleting": run.deleting}[kind](step)
        durable.remove_tree(folder)
        done.append(f"{folder.name}: cleared; it was left by a killed {'save' if kind != 'deleting' else 'deletion'}")
    if run.path.is_dir():
        for folder in sorted(run.path.glob(".live-*")):
            durable.remove_tree(folder)
        done += _recover_best(run)
        durable.fsync_folder(run.path)
    return done


def publish_best(run: RunFolder, manifest: Manifest, fill: Callable[[Staging], None]) -> None:
    """Puts the best model into the run's folder itself.

    The folder cannot be renamed, since checkpoints lie in it. So the files are staged with their manifest; from the
    moment that is complete, `recover` finishes what a kill interrupts. Each file is replaced whole, and between two
    renames the files still fit together: the configuration does not change within a run.
    """
    # A move that failed half-way left files that are nowhere else.
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
        # Of an adapter in another format; a reader would not know which one counts.
        durable.unlink(run.path / name)
    durable.fsync_folder(run.path)
    # Last: while best.json is in the staging folder the move is not over.
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
            # Files that were moved already are hashed where they are now.
            manifest = read_best(staging)
        except CheckpointError:
            manifest = None
        if manifest and all(
            _matches(staging / name, entry) or _matches(run.path / name, entry)
            for name, entry in manifest.files.items()
        ):
            _move_best(run)
            return [f"best model of step {manifest.step}: its publication is finished"]
    durable.remove_tree(staging)
    return ["best model: an unfinished publication is cleared"]


def read_best(folder: Path) -> Manifest | None:
    """The manifest of the best model in a run's folder; None where there is none.

    Raises:
        CheckpointError: it is damaged.
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
