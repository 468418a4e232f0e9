"""Effects on the disk that survive a power loss: written, synced, renamed. Standard library only.

Every effect is announced to `observer` before it happens (and a write once more in its middle), so that a test can
kill the process at each of them. Nothing else in this package touches a checkpoint's bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

Observer = Callable[[str, Path], None]
"""Called with (effect, path); effect is make, write, torn, fsync, rename, unlink or remove."""

observer: Observer | None = None

# A virus scanner or an indexer may hold a file on Windows for a moment.
_TRIES: Final = 20 if os.name == "nt" else 1
_WAIT_SECONDS: Final = 0.05
_CHUNK_BYTES: Final = 2**20


class HashingFile:
    """A file that is written once, front to back, and knows its size and SHA-256 when it is closed.

    It offers what `torch.save` asks of a file object.

    Attributes:
        num_bytes: Written so far.
        error: What the system said when a write failed; `torch.save` says something else.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._hash, self.num_bytes = path, hashlib.sha256(), 0
        self.error: OSError | None = None
        announce("make", path)
        self._file: BinaryIO = path.open("xb")

    def write(self, data: bytes | memoryview) -> int:
        """Appends."""
        try:
            return self._write(data)
        except OSError as error:
            self.error = error
            raise

    def _write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.num_bytes += len(view)
        announce("write", self._path)
        if observer is None:
            self._file.write(view)
        else:
            half = len(view) // 2
            self._file.write(view[:half])
            self._file.flush()
            announce("torn", self._path)
            self._file.write(view[half:])
        return len(view)

    def flush(self) -> None:
        """For callers that ask; `sync` is what counts."""

    def tell(self) -> int:
        """Bytes written."""
        return self.num_bytes

    def sync_and_close(self) -> str:
        """Puts the bytes on the medium; returns their SHA-256 as hex."""
        self._file.flush()
        announce("fsync", self._path)
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()

    def abandon(self) -> None:
        """Closes without a promise."""
        with contextlib.suppress(OSError):
            self._file.close()


@contextlib.contextmanager
def hashing_file(path: Path) -> Iterator[HashingFile]:
    """A `HashingFile` that is closed whatever happens."""
    file = HashingFile(path)
    try:
        yield file
    finally:
        file.abandon()


def announce(effect: str, path: Path) -> None:
    """Tells the observer what is about to happen."""
    if observer is not None:
        observer(effect, path)


def write_file(path: Path, data: bytes) -> str:
    """A new file, on the medium when this returns; returns its SHA-256 as hex."""
    with hashing_file(path) as file:
        file.write(data)
        return file.sync_and_close()


def replace_file(path: Path, data: bytes) -> None:
    """A file replaced whole: a reader, and a power loss, see the old one or the new one."""
    staging = path.with_name(f"{path.name}.new")
    staging.unlink(missing_ok=True)
    write_file(staging, data)
    rename(staging, path)
    fsync_folder(path.parent)


def seal_file(path: Path) -> tuple[int, str]:
    """Puts a file that somebody else wrote on the medium; returns (bytes, SHA-256 as hex)."""
    announce("fsync", path)
    if os.name != "nt":
        # safetensors makes files that only their owner may read; whoever may read the folder may read its files.
        # Some file systems (CIFS, exFAT) have no such rights, and refuse.
        with contextlib.suppress(OSError):
            path.chmod(path.parent.stat().st_mode & 0o666)
    # Windows syncs only what is open for writing.
    with path.open("r+b") as file:
        digest, size = hashlib.sha256(), 0
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(path: Path) -> None:
    """Puts a folder's entries on the medium. Windows has no such call; its journal orders renames."""
    if os.name == "nt":
        return
    announce("fsync", path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> None:
    """A folder and those that lead to it: there, and on the medium."""
    if path.is_dir():
        return
    make_folders(path.parent)
    announce("make", path)
    path.mkdir(exist_ok=True)
    fsync_folder(path.parent)


def rename(source: Path, target: Path) -> None:
    """Atomic on one file system: a file replaces a file, a folder takes a name that is free."""
    announce("rename", target)
    _patiently(lambda: os.replace(source, target))


def _patiently(action: Callable[[], object]) -> None:
    for attempt in range(_TRIES):
        try:
            action()
            return
        except PermissionError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(_WAIT_SECONDS * (attempt + 1))


def unlink(path: Path) -> None:
    """Removes a file if it is there."""
    announce("unlink", path)
    _patiently(lambda: path.unlink(missing_ok=True))


def remove_tree(path: Path) -> None:
    """Removes a folder that is no longer anything, entry by entry."""
    for entry in sorted(path.rglob("*"), reverse=True):
        announce("unlink", entry)
        _patiently(entry.rmdir if entry.is_dir() and not entry.is_symlink() else entry.unlink)
    announce("remove", path)
    _patiently(lambda: shutil.rmtree(path))
