"""System calls that change files: their numbers on x86_64, and the paths that they are about. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Effect = Literal["open", "write", "sync", "rename", "unlink", "make", "change", "map"]

_AT_FDCWD: Final = -100
_PATH_MAX: Final = 4096


@dataclass(frozen=True)
class Shape:
    """How a system call names what it changes, by the number of its argument.

    Attributes:
        name: As in its manual page.
        effect: What it does.
        descriptor: An open file.
        paths: (descriptor of a folder or -1, path) for each path.
        size: Bytes, or parts, that it writes.
    """

    name: str
    effect: Effect
    descriptor: int = -1
    paths: tuple[tuple[int, int], ...] = ()
    size: int = -1


CALLS: Final[dict[int, Shape]] = {
    1: Shape("write", "write", 0, size=2),
    18: Shape("pwrite64", "write", 0, size=2),
    20: Shape("writev", "write", 0, size=2),
    296: Shape("pwritev", "write", 0, size=2),
    328: Shape("pwritev2", "write", 0, size=2),
    40: Shape("sendfile", "write", 0, size=3),
    326: Shape("copy_file_range", "write", 2, size=4),
    275: Shape("splice", "write", 2, size=4),
    2: Shape("open", "open", paths=((-1, 0),)),
    85: Shape("creat", "open", paths=((-1, 0),)),
    257: Shape("openat", "open", paths=((0, 1),)),
    437: Shape("openat2", "open", paths=((0, 1),)),
    82: Shape("rename", "rename", paths=((-1, 0), (-1, 1))),
    264: Shape("renameat", "rename", paths=((0, 1), (2, 3))),
    316: Shape("renameat2", "rename", paths=((0, 1), (2, 3))),
    87: Shape("unlink", "unlink", paths=((-1, 0),)),
    263: Shape("unlinkat", "unlink", paths=((0, 1),)),
    84: Shape("rmdir", "unlink", paths=((-1, 0),)),
    83: Shape("mkdir", "make", paths=((-1, 0),)),
    258: Shape("mkdirat", "make", paths=((0, 1),)),
    133: Shape("mknod", "make", paths=((-1, 0),)),
    259: Shape("mknodat", "make", paths=((0, 1),)),
    86: Shape("link", "make", paths=((-1, 1),)),
    265: Shape("linkat", "make", paths=((2, 3),)),
    88: Shape("symlink", "make", paths=((-1, 1),)),
    266: Shape("symlinkat", "make", paths=((1, 2),)),
    74: Shape("fsync", "sync", 0),
    75: Shape("fdatasync", "sync", 0),
    76: Shape("truncate", "change", paths=((-1, 0),)),
    77: Shape("ftruncate", "change", 0),
    285: Shape("fallocate", "change", 0),
    90: Shape("chmod", "change", paths=((-1, 0),)),
    91: Shape("fchmod", "change", 0),
    268: Shape("fchmodat", "change", paths=((0, 1),)),
    452: Shape("fchmodat2", "change", paths=((0, 1),)),
    280: Shape("utimensat", "change", paths=((0, 1),)),
    9: Shape("mmap", "map", 4),
}
"""Every call that the tracer stops at, by number; open and mmap only where they may change something."""

NEEDS_ROOM: Final[frozenset[Effect]] = frozenset({"open", "write", "make", "map"})
"""Effects that a full disk refuses; renaming, deleting and syncing it does not."""


@dataclass(frozen=True)
class Call:
    """One system call that changes a file.

    Attributes:
        process: Number of the thread that makes it.
        shape: Which it is.
        paths: Absolute paths that it is about.
        size: Bytes, or parts, that it writes; 0 for others.
    """

    process: int
    shape: Shape
    paths: tuple[Path, ...]
    size: int = 0

    def __str__(self) -> str:
        return f"{self.shape.name} {' -> '.join(path.name for path in self.paths)}"


def read_call(process: int, number: int, arguments: tuple[int, ...]) -> Call | None:
    """A stopped thread's call; None where it is not about a file (a pipe, a terminal, memory)."""
    shape = CALLS[number]
    paths: list[Path] = []

    if shape.descriptor >= 0:
        path = _of_descriptor(process, arguments[shape.descriptor])
        if path is None:
            return None
        paths.append(path)
    for folder, name in shape.paths:
        path = _of_name(process, arguments[folder] if folder >= 0 else _AT_FDCWD, arguments[name])
        if path is None:
            return None
        paths.append(path)

    return Call(process, shape, tuple(paths), arguments[shape.size] if shape.size >= 0 else 0)


def _of_descriptor(process: int, descriptor: int) -> Path | None:
    number = _signed(descriptor)
    link = f"/proc/{process}/cwd" if number == _AT_FDCWD else f"/proc/{process}/fd/{number}"
    with contextlib.suppress(OSError):
        target = os.readlink(link)
        if target.startswith("/") and not _is_device(target):
            return Path(target.removesuffix(" (deleted)"))
    return None


def _of_name(process: int, folder: int, address: int) -> Path | None:
    if not address:
        # An open file itself (utimensat without a name).
        return _of_descriptor(process, folder)
    name = os.fsdecode(_text(process, address))
    if _is_device(name):
        return None
    if name.startswith("/"):
        return Path(os.path.normpath(name))
    above = _of_descriptor(process, folder)
    return Path(os.path.normpath(above / name)) if above is not None else None


def _is_device(path: str) -> bool:
    return path.startswith(("/dev/", "/proc/")) and not path.startswith("/dev/shm/")


def _text(process: int, address: int) -> bytes:
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        for length in (_PATH_MAX, 256, 64, 16):
            # Near the end of what is mapped, less can be read.
            try:
                content = os.pread(memory.fileno(), length, address)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EFAULT):
                    raise
                continue
            if b"\0" in content:
                return content.partition(b"\0")[0]
    return b""


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value
