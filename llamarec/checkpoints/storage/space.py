"""Space on the disk: how much a checkpoint takes, and how much is free."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage.entries import entries_below, kind_of
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.readable_units import readable
from llamarec.errors import SpaceError

# State, history and folders grow a little from one checkpoint to the next.
_MARGIN: Final = 1.1
_MARGIN_BYTES: Final = 2**20


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write on the disk of a folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder; what vanishes meanwhile, or cannot be listed, does not count."""
    total = 0
    with contextlib.suppress(OSError):
        for path in entries_below(folder):
            with contextlib.suppress(FileNotFoundError):
                total += path.lstat().st_size if kind_of(path) == "file" else 0
    return total


def bytes_of(entry: Path) -> int:
    """What deleting an entry would free: a folder's files, or a file; nothing for a link."""
    kind = kind_of(entry)
    return folder_bytes(entry) if kind == "folder" else entry.lstat().st_size if kind == "file" else 0


def needed_bytes(checkpoint_bytes: int) -> int:
    """Bytes that must be free for one more checkpoint, which is complete before an old one is deleted."""
    return int(checkpoint_bytes * _MARGIN) + _MARGIN_BYTES


def require_space(run: RunFolder, checkpoint_bytes: int, *, measured: bool) -> None:
    """Raises if the disk cannot hold one more checkpoint.

    Args:
        run: The folder of the checkpoints.
        checkpoint_bytes: Size of one checkpoint.
        measured: Whether that is the size of an existing checkpoint; otherwise it is an estimate.

    Raises:
        SpaceError: less is free than one checkpoint needs.
    """
    free, needed = free_bytes(run.path), needed_bytes(checkpoint_bytes)

    if free < needed:
        raise SpaceError(
            f"the disk of {run.path} has no room for a checkpoint",
            expected=f"{readable(needed)} free (one checkpoint {'takes' if measured else 'will take about'} "
            f"{readable(checkpoint_bytes)})",
            found=f"{readable(free)} free",
            hint=[
                "llamarec checkpoints du   shows what takes how much and what prune would free",
                "or another --output_dir",
            ],
        )
