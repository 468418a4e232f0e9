"""What to do about an error of the operating system, by its number. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FORBIDDEN: Final = {errno.EACCES, errno.EPERM}
NO_LOCKS: Final = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}
"""The file system does not know the call."""
_BROKEN: Final = {errno.EIO, getattr(errno, "ESTALE", errno.EIO), errno.ENXIO, errno.ENODEV}
_OF_RUST: Final = re.compile(r"\(os error (\d+)\)")
_ON_LOCAL_DISK: Final = "on a local disk; --backup_to copies its checkpoints to where they are kept"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes an error of the system one that names a path.

    Libraries in Rust (polars, safetensors) have errors of their own, whose text says the number. A write that fails
    knows no path.

    >>> with naming(Path("runs/a")):
    ...     raise ValueError("I/O error: No space left on device (os error 28)")
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device: 'runs/a'
    """
    try:
        yield
    except OSError as error:
        number = error.errno or _number_in(error)
        if error.filename is None and number is not None:
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    except Exception as error:
        number = _number_in(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _number_in(error: Exception) -> int | None:
    found = _OF_RUST.search(str(error))
    return int(found[1]) if found else None


def advice(error: BaseException, path: Path, other_folder: str, *, locks: bool = False) -> list[str]:
    """What to type or do next, a line each.

    Args:
        error: What the operating system said.
        path: The run's folder.
        other_folder: How to train in another folder, in the program's words.
        locks: The error came from taking the lock; otherwise from writing.

    >>> advice(OSError(errno.ENOLCK, "No locks available"), Path("runs/a"), "another --output_dir", locks=True)
    ['another --output_dir on a local disk; --backup_to copies its checkpoints to where they are kept', \
'or mount this one with locks (NFS: its lock service, not nolock)']
    >>> advice(OSError(errno.EROFS, "Read-only file system"), Path("runs/a"), "another --output_dir")
    ['another --output_dir: this file system is mounted read-only']
    """
    number = error.errno if isinstance(error, OSError) else errno.ENOSYS
    if number in _FULL:
        return [f"make room on the disk of {path}, or within your quota"]
    if number in _FORBIDDEN:
        return [f"chmod u+w {path}", f"or {other_folder}"]
    if number == errno.EROFS:
        return [f"{other_folder}: this file system is mounted read-only"]
    if number in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}:
        return [f"{other_folder}: a file has the name of a folder"]
    if number == errno.ENAMETOOLONG:
        return [f"{other_folder} with a shorter path"]
    if number in NO_LOCKS and locks:
        return [f"{other_folder} {_ON_LOCAL_DISK}", "or mount this one with locks (NFS: its lock service, not nolock)"]
    if number in NO_LOCKS:
        return [f"{other_folder} {_ON_LOCAL_DISK} (this file system cannot put a folder safely on the disk)"]
    if number in _BROKEN:
        return ["look at the disk or the network mount (dmesg), then try again", f"or {other_folder}"]

    return [f"{other_folder}, or mend what is said above and try again"]
