"""Files that belong together in a folder that stays: published as one, verified by each reader.

    folder/
      a.parquet, b.json     the files
      manifest.json         their sizes and hashes; moved in last, removed first
      .publishing/          the next set on its way

The folder cannot be renamed, because it holds more than the set. So the files are staged with their manifest. Once that
is complete the new set counts: a kill while the files move leaves a move that `finish` ends. Until then the old set
counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.entries import kind_of, open_regular, read_bytes
from llamarec.checkpoints.storage.json_shapes import ShapeError, shaped
from llamarec.checkpoints.storage.layout import MANIFEST, max_bytes_of
from llamarec.checkpoints.storage.manifest import FileEntry, inside, sealed, unsealed
from llamarec.checkpoints.storage.publish import NOT_AS_WRITTEN, Staging, matches, staged
from llamarec.errors import CheckpointError

_STAGING: Final = ".publishing"


class ChangedError(Exception):
    """A file of the set is missing, or is not what was published; the text says which."""


@dataclass(frozen=True)
class FileSet:
    """The files of one folder that are published together.

    Args:
        folder: The folder.
    """

    folder: Path

    @property
    def staging(self) -> Path:
        """Folder of a set on its way."""
        return self.folder / _STAGING

    @property
    def is_unfinished(self) -> bool:
        """Whether a kill has interrupted the move of a complete set; `finish` ends it."""
        try:
            return _entries(self.staging) is not None
        except ChangedError:
            # Killed while it was written, so that nothing has moved yet.
            return False

    def entries(self) -> dict[str, FileEntry] | None:
        """Size and hash of each file; None where the folder has no manifest.

        Raises:
            ChangedError: the manifest is damaged.
        """
        return _entries(self.folder)

    def read(self, name: str) -> bytes:
        """The content of a file, as it was published; unverified where the folder has no manifest.

        Raises:
            ChangedError: it is not what was published.
            OSError: it cannot be read.
        """
        # A set that is published meanwhile has another manifest.
        for _ in range(2):
            entries = self.entries()
            problem, raw = self._read(name, entries)
            if not problem or entries == self.entries():
                break
        if problem:
            raise ChangedError(problem)
        return raw

    def _read(self, name: str, entries: Mapping[str, FileEntry] | None) -> tuple[str, bytes]:
        """(what is wrong, content)."""
        path = self.folder / name
        if entries is None:
            return "", _content(path)
        if name not in entries:
            return f"{name} is not one of the files that were written together", b""

        try:
            raw = _content(path)
        except FileNotFoundError:
            return f"{name} is missing", b""

        entry = entries[name]
        if len(raw) != entry.num_bytes:
            return f"{name} has {len(raw):,} bytes instead of {entry.num_bytes:,}", b""
        if durable.sha256_of_bytes(raw) != entry.sha256:
            return f"{name} has changed since it was written (SHA-256 differs)", b""
        return "", raw

    def publish(self, fill: Callable[[Staging], None], about: Mapping[str, Any]) -> None:
        """Replaces the set, all of it or nothing; the caller holds the folder's lock.

        Args:
            fill: Writes the files into the staging folder.
            about: More values for the manifest.

        Raises:
            OSError: the disk is full or cannot be written; the old set counts.
            CheckpointError: the files read back differently from what was written.
        """
        durable.make_folders(self.folder)
        self.finish()

        with staged(self.staging) as staging:
            fill(staging)
            staging.adopt()
            for name, entry in staging.files.items():
                if not matches(staging.path / name, entry):
                    raise CheckpointError(f"{self.folder / name} {NOT_AS_WRITTEN}")
            files = {name: asdict(entry) for name, entry in sorted(staging.files.items())}
            # A power loss may keep an entry and lose an earlier one: with the manifest, all files are there.
            durable.fsync_folder(staging.path)
            staging.finish(MANIFEST, sealed({**about, "files": files}))
            durable.fsync_folder(self.folder)
        self._move()

    def finish(self) -> bool:
        """Ends an interrupted move, or clears what was never complete; the caller holds the folder's lock.

        Returns:
            Whether there was anything.
        """
        if self.is_unfinished:
            self._move()
            return True
        if kind_of(self.staging) != "nothing":
            durable.remove(self.staging)
            return True
        return False

    def _move(self) -> None:
        # First: between two of the renames no manifest may vouch for a mixture.
        durable.remove(self.folder / MANIFEST)
        durable.fsync_folder(self.folder)
        for path in sorted(self.staging.iterdir()):
            if path.name != MANIFEST:
                durable.rename(path, self.folder / path.name)
        durable.fsync_folder(self.folder)

        # Last: the move is unfinished as long as the manifest is in the staging folder.
        durable.rename(self.staging / MANIFEST, self.folder / MANIFEST)
        durable.fsync_folder(self.folder)
        durable.remove(self.staging)


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def _entries(folder: Path) -> dict[str, FileEntry] | None:
    path = folder / MANIFEST
    try:
        raw = read_bytes(path, max_bytes_of(MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ChangedError(f"{MANIFEST} cannot be read: {error}") from error

    try:
        content = unsealed(raw, str(path))
        return {inside(name): entry for name, entry in shaped(content["files"], dict[str, FileEntry]).items()}
    except (CheckpointError, ShapeError, KeyError) as error:
        raise ChangedError(f"{MANIFEST} is damaged: {' '.join(str(error).split())}") from error
