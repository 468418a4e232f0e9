"""Entries of a folder, looked at without following links, and the only way to open one. Standard library only.

A checkpoint may come from anywhere, so a name proves nothing: a FIFO in the place of a file would wait forever, a link
to /dev/zero has no end, and a link in the place of a folder leads out of the run.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Final, Literal

EntryKind = Literal["nothing", "file", "folder", "link", "other"]

_MAX_DEPTH: Final = 32
_MAX_ENTRIES: Final = 1_000_000
_CHUNK_BYTES: Final = 2**20
_NAMES: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a link",
}
# Opening must not wait for the other end of a FIFO. Windows has neither.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class EntryError(OSError):
    """What has a name is not what a checkpoint has there; reads as a sentence."""

    def __str__(self) -> str:
        """Path, and what is wrong with it."""
        return f"{self.filename} {self.strerror}"


def kind_of(path: Path) -> EntryKind:
    """What has this name. A link is a link, whatever it leads to; so is a junction of Windows."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    if is_link(status):
        return "link"
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    return "file" if stat.S_ISREG(status.st_mode) else "other"


def is_link(status: os.stat_result) -> bool:
    """Whether the result of an `lstat` is a link's, or that of a junction."""
    tag = getattr(status, "st_reparse_tag", 0)
    return stat.S_ISLNK(status.st_mode) or tag == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)


def described(path: Path) -> str:
    """What has this name, in words.

    >>> described(Path("/")), described(Path("/no such folder"))
    ('a folder', 'nothing')
    """
    try:
        status = path.lstat()
    except OSError:
        return "nothing"
    if not is_link(status):
        return _NAMES.get(stat.S_IFMT(status.st_mode), "no file")

    try:
        return f"a link to {_NAMES.get(stat.S_IFMT(path.stat().st_mode), 'no file')}"
    except OSError as error:
        return "a link in a circle" if error.errno == errno.ELOOP else "a link to nothing"


def not_a_folder(path: Path) -> str:
    """What has the name of a folder of ours instead; empty where it is a folder."""
    if kind_of(path) == "folder":
        return ""
    kept = "; what it leads to is as it was" if kind_of(path) == "link" else ""
    return f"it was {described(path)}, not a folder{kept}"


def entries_below(folder: Path) -> Iterator[Path]:
    """Everything in a folder and its folders, by name, each folder before its content; links are not entered.

    Raises:
        OSError: a folder cannot be read, or is nested deeper than any checkpoint.
    """
    waiting, found = [(folder, 0)], 0
    while waiting:
        above, depth = waiting.pop()
        if depth:
            yield above
        if depth and kind_of(above) != "folder":
            continue

        names = sorted(os.listdir(above), reverse=True)
        found += len(names)
        if names and (depth >= _MAX_DEPTH or found > _MAX_ENTRIES):
            raise EntryError(errno.E2BIG, "has more folders in folders, or more files, than a checkpoint", str(folder))
        waiting += [(above / name, depth + 1) for name in names]


def require_regular(path: Path, max_bytes: int | None = None) -> os.stat_result:
    """The status of a file, or of the file that a link leads to.

    Args:
        path: The file.
        max_bytes: The most that a file of its kind has; None where only its own header can tell.

    Raises:
        OSError: it is missing, larger, or a FIFO, a device, a folder.
    """
    # Before it is opened, since opening a device can already do something.
    status = path.stat()
    _check(status, path, max_bytes)
    return status


def open_regular(path: Path, max_bytes: int | None = None) -> BufferedReader:
    """A file, opened for reading bytes.

    Args:
        path: The file, or a link to it.
        max_bytes: As in `require_regular`.

    Raises:
        OSError: as in `require_regular`, or it cannot be read.
    """
    require_regular(path, max_bytes)
    file = os.fdopen(os.open(path, _FLAGS), "rb")
    try:
        # Once more: the name may have got another meaning.
        _check(os.fstat(file.fileno()), path, max_bytes)
    except OSError:
        file.close()
        raise
    return file


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The content of a small file.

    Raises:
        OSError: as in `open_regular`.
    """
    with open_regular(path, max_bytes) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise _too_large(path, len(content), max_bytes)
    return content


def chunks_of(path: Path) -> Iterator[bytes]:
    """The content of a file of any size, piece by piece.

    Raises:
        OSError: as in `open_regular`.
    """
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _check(status: os.stat_result, path: Path, max_bytes: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise EntryError(errno.EINVAL, f"is {described(path)}, not a file", str(path))
    if max_bytes is not None and status.st_size > max_bytes:
        raise _too_large(path, status.st_size, max_bytes)


def _too_large(path: Path, num_bytes: int, max_bytes: int) -> OSError:
    return EntryError(errno.EFBIG, f"has {num_bytes:,} bytes; such a file has at most {max_bytes:,}", str(path))
