"""Places that fsspec reaches (folders, s3://, memory://, ...), as far as copies of checkpoints need them.

fsspec is imported when a store is opened. Whatever a store's driver raises becomes a `CheckpointError`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.storage.manifest import FileEntry
from llamarec.errors import CheckpointError

_CHUNK_BYTES: Final = 2**20


@dataclass(frozen=True)
class Store:
    """A folder somewhere.

    Attributes:
        url: As the user wrote it; for messages.
        filesystem: fsspec's.
        path: In that file system's own form.
        is_local: It lies on this machine's disks.
    """

    url: str
    filesystem: Any
    path: str
    is_local: bool

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rstrip("/").rpartition("/")[2]

    def below(self, name: str) -> Store:
        """A folder in this one."""
        separator = "" if self.url.endswith("/") else "/"
        return replace(self, url=f"{self.url}{separator}{name}", path=self._at(name))

    def folders(self) -> list[str]:
        """Names of the folders in it."""
        with self._driver():
            self.filesystem.invalidate_cache()
            if not self.filesystem.exists(self.path):
                return []
            found = self.filesystem.ls(self.path, detail=True)
            return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in found if _is_folder(entry))

    def names(self) -> list[str]:
        """Every file below it, relative, with forward slashes; empty where there is nothing at all."""
        with self._driver():
            # Drivers remember listings; another process may have written since.
            self.filesystem.invalidate_cache()
            prefix = self.path.rstrip("/") + "/"
            return sorted(found.removeprefix(prefix) for found in self.filesystem.find(self.path))

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file's bytes, a piece at a time."""
        with self._driver(name), self.filesystem.open(self._at(name), "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def read(self, name: str) -> bytes:
        """A small file, whole."""
        return b"".join(self.chunks(name))

    def entry(self, name: str) -> FileEntry:
        """Size and hash of a file, by reading all of it."""
        digest, size = hashlib.sha256(), 0
        for chunk in self.chunks(name):
            digest.update(chunk)
            size += len(chunk)
        return FileEntry(size, digest.hexdigest())

    def write(self, name: str, chunks: Iterable[bytes]) -> FileEntry:
        """A file made of pieces; returns what was sent, which is not yet proof of what arrived."""
        digest, size = hashlib.sha256(), 0
        with self._driver(name), self._open_new(name) as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        with self._driver(name):
            self.filesystem.invalidate_cache()
        return FileEntry(size, digest.hexdigest())

    def remove(self, name: str) -> None:
        """Removes a file if it is there."""
        with self._driver(name):
            if self.filesystem.exists(self._at(name)):
                self.filesystem.rm_file(self._at(name))

    def remove_all(self) -> None:
        """Removes the folder and all in it."""
        with self._driver():
            self.filesystem.rm(self.path, recursive=True)

    def _at(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    def _open_new(self, name: str) -> Any:
        path = self._at(name)
        try:
            return self.filesystem.open(path, "wb")
        except FileNotFoundError:
            # Asked for only where it is needed: on an object store this call may create a bucket.
            self.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            return self.filesystem.open(path, "wb")

    @contextlib.contextmanager
    def _driver(self, name: str = "") -> Iterator[None]:
        where = f"{self.url.rstrip('/')}/{name}" if name else self.url
        try:
            yield
        except CheckpointError:
            raise
        except FileNotFoundError as error:
            raise CheckpointError(f"{where} is missing") from error
        except Exception as error:
            # Drivers raise what their client libraries raise: no common ancestor but this one.
            raise CheckpointError(
                f"{where} cannot be reached", found=f"{type(error).__name__}: {error}", hint="try again"
            ) from error


def open_store(url: str | Path) -> Store:
    """The folder at an address; nothing is read or made yet.

    Raises:
        CheckpointError: no such kind of address, or the package for it is not installed.
    """
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    text = str(url)
    text = str(Path(text).expanduser()) if "://" not in text else text
    try:
        filesystem, path = url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise CheckpointError(
            f"cannot open {text}",
            expected="a folder, or an address like s3://bucket/folder that fsspec knows",
            found=str(error),
            hint="pip install s3fs (s3://), gcsfs (gs://), adlfs (az://) or sshfs (ssh://)",
        ) from error
    except Exception as error:
        raise CheckpointError(f"cannot open {text}", found=f"{type(error).__name__}: {error}") from error
    return Store(text, filesystem, str(path), isinstance(filesystem, LocalFileSystem))


def _is_folder(entry: dict[str, Any]) -> bool:
    return bool(entry["type"] == "directory")
