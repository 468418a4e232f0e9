"""Staging, publishing, replacing and deleting checkpoints.

Publishing is one rename of a folder whose files, manifest and entries are synced already. Saving a step again first
renames the old folder aside; `recovery` repairs a kill between the two renames.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final, cast

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.entries import entries_below, kind_of
from llamarec.checkpoints.storage.layout import MANIFEST, RunFolder
from llamarec.checkpoints.storage.manifest import FileEntry, Manifest, read_manifest
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
        """Hashes and syncs the files that other code wrote into the folder.

        Links and other entries that are no files stay unlisted: what they lead to can change at any time.
        """
        for path in entries_below(self.path):
            name = path.relative_to(self.path).as_posix()
            if kind_of(path) == "file" and name not in self.files:
                self.files[name] = FileEntry(*durable.seal_file(path))

    def finish(self, name: str, content: bytes) -> None:
        """Writes the manifest as the last file, then syncs all folders."""
        durable.write_file(self.path / name, content)
        for path in sorted(entries_below(self.path), reverse=True):
            if kind_of(path) == "folder":
                durable.fsync_folder(path)
        durable.fsync_folder(self.path)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Staging]:
    """An empty staging folder; an exception while it is filled removes it again."""
    durable.remove(path)
    durable.announce("make", path)
    path.mkdir(parents=True)

    try:
        yield Staging(path)
    except BaseException:
        with contextlib.suppress(OSError):
            durable.remove(path)
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
        if not is_complete(staging.path):
            raise CheckpointError(f"checkpoint-{manifest.step} {NOT_AS_WRITTEN}")
        if check is not None:
            check(staging.path)
        take_name(run, manifest.step)
    return complete


def take_name(run: RunFolder, step: int) -> None:
    """Gives a finished staging folder its name, replacing a checkpoint that has it."""
    final, replaced = run.checkpoint(step), run.replaced(step)
    if kind_of(final) != "nothing":
        durable.remove(replaced)
        durable.rename(final, replaced)
    try:
        durable.rename(run.saving(step), final)
    except OSError:
        if kind_of(replaced) != "nothing":
            durable.rename(replaced, final)
        raise
    durable.fsync_folder(run.path)

    # The save is good even if the old folder cannot be deleted; `recover` tries again.
    with contextlib.suppress(OSError):
        durable.remove(replaced)


def delete(run: RunFolder, step: int) -> None:
    """Deletes a checkpoint: one rename takes its name away, then its files are removed.

    Of a checkpoint that is a link, only the link goes.
    """
    doomed = run.deleting(step)
    durable.remove(doomed)
    durable.rename(run.checkpoint(step), doomed)
    durable.fsync_folder(run.path)
    durable.remove(doomed)


def is_complete(folder: Path) -> bool:
    """Whether a folder has a manifest, and every file in it as the manifest says."""
    try:
        manifest = read_manifest(folder)
    except CheckpointError:
        return False
    return manifest is not None and all(matches(folder / name, entry) for name, entry in manifest.files.items())


def matches(path: Path, entry: FileEntry) -> bool:
    """Whether a file, not a link to one, has this size and hash."""
    if kind_of(path) != "file" or path.stat().st_size != entry.num_bytes:
        return False
    return durable.sha256_of(path) == entry.sha256
