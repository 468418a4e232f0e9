"""Files on their way into a checkpoint: effects on the disk, all announced."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import BinaryIO, Final

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.entries import chunks_of, entries_below, kind_of
from llamarec.checkpoints.storage.publish import Staging

# Stands in the form once for each thing to fill in.
_TO_FILL_IN: Final = b"[More Information Needed]"


def remove_empty_card(path: Path) -> None:
    """Removes PEFT's form of a model card, which nobody has filled in; a program's own stays."""
    if kind_of(path) == "file" and any(_TO_FILL_IN in chunk for chunk in chunks_of(path)):
        durable.remove(path)


def move_into(source: Path, target: Path) -> None:
    """Moves the content of a folder into another one, and removes the folder."""
    for path in sorted(source.iterdir()):
        if path.is_dir() and (target / path.name).is_dir():
            move_into(path, target / path.name)
        else:
            durable.rename(path, target / path.name)
    durable.remove(source)


def copy_into(source: Path, staging: Staging) -> None:
    """Adds the files of a folder to a checkpoint; the folder stays."""
    for path in entries_below(source):
        name = path.relative_to(source).as_posix()
        if kind_of(path) == "folder":
            durable.make_folders(staging.path / name)
            continue

        # Instead of one of the same name that the model's own save wrote.
        durable.remove(staging.path / name)
        copy_file(path, name, staging)


def copy_file(path: Path, name: str, staging: Staging) -> None:
    """Adds a file of any size to a checkpoint, under a name."""

    def write(file: BinaryIO) -> None:
        for chunk in chunks_of(path):
            file.write(chunk)

    staging.write_with(name, write)


def clear(folder: Path) -> None:
    """Removes a live model that was not moved; the next start clears what cannot be removed now."""
    with contextlib.suppress(OSError):
        durable.remove(folder)
