"""Effects on the disk that survive a power loss: written, synced, renamed. Standard library only.

Every effect is announced to `observer` before it happens (and a write once more in its middle), so that a test can
kill the process at each of them. Nothing else in this package touches a checkpoint's bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from llamarec.checkpoints.storage.entries import (
    EntryError,
    described,
    entries_below,
    kind_of,
    open_regular,
    require_regular,
)

Observer = Callable[[str, Path], None]
"""Called with (effect, path); effect is make, write, torn, fsync, rename, unlink or remove."""

observer: Observer | None = None

# A virus scanner or an indexer may hold a file on Windows for a moment.
_TRIES: Final = 20 if os.name == "nt" else 1
_WAIT_SECONDS: Final = 0.05
_CHUNK_BYTES: Final = 2**20
# Far more than a checkpoint has, and few enough that each level's descriptor stays open.
_MAX_DEPTH: Final = 100
_FOLDER: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_HAS_DIR_FD: Final = (
    {os.open, os.unlink, os.rmdir, os.stat} <= os.supports_dir_fd
    and os.listdir in os.supports_fd
    and hasattr(os, "O_NOFOLLOW")
)


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


def write_note(path: Path, data: bytes) -> None:
    """A small file that nothing depends on: in place, and not synced. A link in its place is replaced, not followed."""
    if kind_of(path) in ("link", "other"):
        remove(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(data)


def replace_file(path: Path, data: bytes) -> None:
    """A file replaced whole: a reader, and a power loss, see the old one or the new one."""
    staging = path.with_name(f"{path.name}.new")
    remove(staging)
    try:
        write_file(staging, data)
        rename(staging, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(staging)
        raise
    fsync_folder(path.parent)


def seal_file(path: Path) -> tuple[int, str]:
    """Puts a file that somebody else wrote on the medium; returns (bytes, SHA-256 as hex)."""
    announce("fsync", path)
    require_regular(path)
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
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """SHA-256 of bytes as hex."""
    return hashlib.sha256(data).hexdigest()


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


def sync_tree(path: Path) -> None:
    """Puts a folder that somebody else filled on the medium: every file, then every folder from below."""
    folders = [path]
    for entry in entries_below(path):
        kind = kind_of(entry)
        if kind == "folder":
            folders.append(entry)
        elif kind == "file":
            announce("fsync", entry)
            # Windows syncs only what is open for writing.
            # A file that its owner may not read is linked from elsewhere, and is there already.
            with contextlib.suppress(PermissionError), entry.open("r+b" if os.name == "nt" else "rb") as file:
                os.fsync(file.fileno())

    for folder in sorted(folders, reverse=True):
        fsync_folder(folder)


def make_folders(path: Path) -> None:
    """A folder and those that lead to it: there, and on the medium.

    Raises:
        OSError: something else has its name.
    """
    if path.is_dir():
        return
    if kind_of(path) != "nothing":
        raise EntryError(errno.ENOTDIR, f"is {described(path)}, not a folder", str(path))
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


def remove(path: Path) -> None:
    """Deletes whatever has this name: the only deletion on a run's disk.

    A link is unlinked and never followed, here and anywhere below. So what it leads to stays whole, even if somebody
    puts a link in the place of a folder meanwhile. Nothing happens where nothing is.

    Raises:
        OSError: it cannot be deleted.
    """
    if path.name in ("", ".", ".."):
        raise EntryError(errno.EINVAL, "is not a name that may be deleted", str(path))
    kind = kind_of(path)
    if kind == "nothing":
        return
    if kind != "folder":
        announce("unlink", path)
        _patiently(lambda: path.unlink(missing_ok=True))
        return

    if _HAS_DIR_FD:
        # The way to the folder may lead through links; only what is in it may not.
        above = os.open(path.parent, _FOLDER)
        try:
            _remove_folder_at(path, above, depth=0)
        finally:
            os.close(above)
    else:
        _remove_folder(path)


def _remove_folder_at(path: Path, above: int, depth: int) -> None:
    """Deletes a folder by its name in an open folder, so that no link is ever in between."""
    if depth > _MAX_DEPTH:
        raise EntryError(errno.ELOOP, f"has more than {_MAX_DEPTH} folders in folders", str(path))
    folder = os.open(path.name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)

    try:
        for name in sorted(os.listdir(folder), reverse=True):
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                _remove_folder_at(path / name, folder, depth + 1)
            else:
                announce("unlink", path / name)
                os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)
    announce("remove" if depth == 0 else "unlink", path)
    os.rmdir(path.name, dir_fd=above)


def _remove_folder(path: Path, depth: int = 0) -> None:
    """The same where folders have no descriptors (Windows); `unlink` takes links to folders and junctions there."""
    if depth > _MAX_DEPTH:
        raise EntryError(errno.ELOOP, f"has more than {_MAX_DEPTH} folders in folders", str(path))

    for name in sorted(os.listdir(path), reverse=True):
        entry = path / name
        if kind_of(entry) == "folder":
            _remove_folder(entry, depth + 1)
        else:
            announce("unlink", entry)
            _patiently(entry.unlink)
    announce("remove" if depth == 0 else "unlink", path)
    _patiently(path.rmdir)
