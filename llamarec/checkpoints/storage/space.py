"""Room on the disk: how much a checkpoint takes, how much there is. Standard library only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.units import readable
from llamarec.errors import SpaceError

# State and history grow a little from one checkpoint to the next, and so do folders.
_MARGIN: Final = 1.1
_MARGIN_BYTES: Final = 2**20


def free_bytes(folder: Path) -> int:
    """Free for this user where the folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        except FileNotFoundError:
            continue
    return total


def needed_bytes(checkpoint_bytes: int) -> int:
    """What must be free for one more checkpoint: it is complete before an old one goes."""
    return int(checkpoint_bytes * _MARGIN) + _MARGIN_BYTES


def require_space(run: RunFolder, checkpoint_bytes: int, *, measured: bool) -> None:
    """Refuses to begin what cannot be saved.

    Args:
        run: Where checkpoints go.
        checkpoint_bytes: Size of one.
        measured: Whether that is the size of one that exists, or an estimate.

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
            hint="llamarec checkpoints du   shows what takes how much and what prune would free; "
            "or another --output_dir",
        )
