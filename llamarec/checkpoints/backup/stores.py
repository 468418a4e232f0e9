"""Stores that fsspec reaches (folders, s3://, memory://, ...), with the operations that copies of checkpoints need.

fsspec is imported when a store is opened. Any error of a store's driver becomes a `CheckpointError`, without the
credentials that the driver may name in it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from llamarec.checkpoints.storage.entries import chunks_of, entries_below, kind_of
from llamarec.checkpoints.storage.layout import max_bytes_of
from llamarec.checkpoints.storage.manifest import FileEntry
from llamarec.credentials import remember, without_credentials
from llamarec.errors import CheckpointError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_CHUNK_BYTES: Final = 2**20


class MissingError(CheckpointError):
    """A file or folder is not in its store."""


class UnreachableError(CheckpointError):
    """A store does not answer, or refuses: another try may succeed."""


@dataclass(frozen=True)
class Store:
    """A folder in a file system of fsspec.

    Attributes:
        url: Address as the user wrote it, without credentials: for messages and records.
        filesystem: The file system.
        path: Path in that file system's own form.
        is_local: Whether it is on this machine's disks.
        pulse: Called after each piece that is read or written, by whoever wants to know that something moves.
    """

    url: str
    filesystem: AbstractFileSystem
    path: str
    is_local: bool
    pulse: Callable[[], object] = lambda: None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]

    def below(self, name: str) -> Store:
        """A folder in this store."""
        separator = "" if self.url.endswith("/") else "/"
        return replace(self, url=f"{self.url}{separator}{name}", path=self._at(name))

    def folders(self) -> list[str]:
        """Names of the folders in this store."""
        with self._driver():
            self.filesystem.invalidate_cache()
            if not self.filesystem.exists(self.path):
                return []
            found = self.filesystem.ls(self.path, detail=True)
            return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in found if _is_folder(entry))

    def names_on_top(self) -> set[str]:
        """Names of the files in this store itself, none of those in its folders; empty if it does not exist."""
        with self._driver():
            self.filesystem.invalidate_cache()
            if not self.filesystem.isdir(self.path):
                return set()
            found = self.filesystem.ls(self.path, detail=True)
            return {entry["name"].rstrip("/").rpartition("/")[2] for entry in found if not _is_folder(entry)}

    def names(self) -> list[str]:
        """Relative paths of all files in this store, with forward slashes; empty if it does not exist."""
        with self._driver():
            # Drivers cache listings; another process may have written since.
            self.filesystem.invalidate_cache()
            if self.is_local:
                return _names_below(Path(self.path))
            prefix = self.path.rstrip("/") + "/"
            return sorted(found.removeprefix(prefix) for found in self.filesystem.find(self.path))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, in chunks."""
        if self.is_local:
            with self._driver(name):
                for chunk in chunks_of(Path(self._at(name))):
                    self.pulse()
                    yield chunk
            return

        with self._driver(name), self.filesystem.open(self._at(name), "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                self.pulse()
                yield chunk

    def read(self, name: str) -> bytes:
        """The bytes of a small file.

        Raises:
            CheckpointError: it is missing, or too large for a file of its name.
        """
        content = bytearray()
        for chunk in self.chunks(name):
            content += chunk
            if len(content) > max_bytes_of(name):
                raise CheckpointError(f"{self.url.rstrip('/')}/{name} is too large for such a file")
        return bytes(content)

    def links(self) -> list[str]:
        """Names of what is neither a file nor a folder, as far as that can be told: links, FIFOs, devices."""
        if not self.is_local:
            return []
        with self._driver():
            folder = Path(self.path)
            odd = (path for path in entries_below(folder) if kind_of(path) not in ("file", "folder"))
            return [path.relative_to(folder).as_posix() for path in odd]

    def entry(self, name: str) -> FileEntry:
        """Size and hash of a file, which is read completely."""
        digest, size = hashlib.sha256(), 0
        for chunk in self.chunks(name):
            digest.update(chunk)
            size += len(chunk)
        return FileEntry(size, digest.hexdigest())

    def write(self, name: str, chunks: Iterable[bytes]) -> FileEntry:
        """Writes a file from chunks; returns size and hash of what was sent, which does not prove what arrived."""
        digest, size = hashlib.sha256(), 0
        with self._driver(name), self._open_new(name) as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                self.pulse()
        with self._driver(name):
            self.filesystem.invalidate_cache()
        return FileEntry(size, digest.hexdigest())

    def remove(self, name: str) -> None:
        """Removes a file if it is there."""
        with self._driver(name):
            if self.filesystem.exists(self._at(name)):
                self.filesystem.rm_file(self._at(name))

    def sizes(self) -> dict[str, int]:
        """Bytes of every file in this store, by relative path, as the store tells them."""
        with self._driver():
            self.filesystem.invalidate_cache()
            prefix = self.path.rstrip("/") + "/"
            found = self.filesystem.find(self.path, detail=True)
            return {name.removeprefix(prefix): int(entry["size"] or 0) for name, entry in found.items()}

    def remove_all(self) -> None:
        """Removes the folder with its content."""
        with self._driver():
            self.filesystem.rm(self.path, recursive=True)

    def _at(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    def _open_new(self, name: str) -> IO[bytes]:
        path = self._at(name)
        try:
            file: IO[bytes] = self.filesystem.open(path, "wb")
        except FileNotFoundError:
            # Only now, because on an object store this call may create a bucket.
            self.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            file = self.filesystem.open(path, "wb")
        return file

    @contextlib.contextmanager
    def _driver(self, name: str = "") -> Iterator[None]:
        where = f"{self.url.rstrip('/')}/{name}" if name else self.url
        try:
            yield
        except CheckpointError:
            raise
        except FileNotFoundError as error:
            raise MissingError(f"{where} is missing") from (error if self.is_local else None)
        except OSError as error:
            if not self.is_local:
                raise self._unreachable(where, error) from None
            raise CheckpointError(f"{where} cannot be read", found=str(error)) from error
        except Exception as error:
            # Drivers raise the errors of their client libraries, which have no closer common ancestor.
            raise self._unreachable(where, error) from None

    @staticmethod
    def _unreachable(where: str, error: Exception) -> UnreachableError:
        """Raised without the driver's own error, whose text may hold a password and would stand in a traceback."""
        found = f"{type(error).__name__}: {error}"
        return UnreachableError(f"{where} cannot be reached", found=found, hint="try again")


def open_store(url: str | Path) -> Store:
    """The store at an address; nothing is read or created yet.

    Raises:
        CheckpointError: this kind of address is unknown, or its package is not installed.
    """
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    text = str(url)
    text = str(Path(text).expanduser()) if "://" not in text else text
    remember(text)

    try:
        filesystem, path = url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise CheckpointError(
            f"cannot open {text}",
            expected="a folder, or an address like s3://bucket/folder that fsspec knows",
            found=str(error),
            hint="pip install s3fs (s3://), gcsfs (gs://), adlfs (az://) or sshfs (ssh://)",
        ) from None
    except Exception as error:
        raise UnreachableError(f"cannot open {text}", found=f"{type(error).__name__}: {error}") from None
    return Store(without_credentials(text), filesystem, str(path), isinstance(filesystem, LocalFileSystem))


def _names_below(folder: Path) -> list[str]:
    if kind_of(folder) == "nothing":
        return []
    return sorted(path.relative_to(folder).as_posix() for path in entries_below(folder) if kind_of(path) != "folder")


def _is_folder(entry: dict[str, object]) -> bool:
    return entry["type"] == "directory"
