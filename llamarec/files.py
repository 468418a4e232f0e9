"""Small files written whole: a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from filelock import FileLock

from llamarec.checkpoints.storage import durable, json_shapes
from llamarec.checkpoints.storage.entries import kind_of
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.checkpoints.storage.os_errors import naming
from llamarec.errors import ArtifactError, Lines

T = TypeVar("T")

_REPEAT: Final = "repeat the step that writes this file, or restore the file from a copy"

_NEIGHBOUR: Final = re.compile(r"\.[0-9a-f]{32}\.tmp$")
_LEFT_SECONDS: Final = 86_400


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A neighbour to write to, which takes the file's place in the end, or goes without a trace where that fails.

    When this ends, the file is on the medium.
    """
    with naming(path):
        durable.make_folders(path.parent)
    staging = _neighbour(path)
    try:
        with naming(path):
            yield staging
        # Windows syncs only what is open for writing.
        with naming(path), staging.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(staging, path)
        with naming(path):
            durable.fsync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            durable.remove(staging)
        raise


def _neighbour(path: Path) -> Path:
    """A name of one's own, as another process may write the same file; removes what a killed one has left."""
    left = (one for one in path.parent.glob(f"{glob.escape(path.name)}.*.tmp") if _NEIGHBOUR.search(one.name))
    for one in left:
        with contextlib.suppress(OSError):
            # So long ago that nobody is writing it.
            if time.time() - one.stat().st_mtime > _LEFT_SECONDS:
                durable.remove(one)

    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")


@contextlib.contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """An empty neighbour to fill, which takes the folder's place in the end, or goes without a trace where that fails.

    A kill or a power loss leaves the old folder or the new one, at worst the old one under a name of ours beside it,
    from which the next call puts it back. A second process that replaces the same folder waits until the first has
    finished.

    Raises:
        OSError: the disk is full, the folder cannot be written, or its file system has no locks; names the folder.
    """
    with naming(target):
        durable.make_folders(target.parent)
    with _locked(target):
        yield from _replacing_folder(target)


def _replacing_folder(target: Path) -> Iterator[Path]:
    # Names that nobody gives a folder of his own: what is found under them is deleted or put back. The lock is held,
    # so that its process is dead.
    staging, old = (target.with_name(f".{target.name}.llamarec-{part}") for part in ("new", "old"))
    if kind_of(old) == "folder" and kind_of(target) == "nothing":
        old.rename(target)
    for left in (staging, old):
        durable.remove(left)
    staging.mkdir()

    try:
        with naming(target):
            yield staging
            # Before the rename, and before the old one goes: a disk may keep a name and lose the content.
            durable.sync_tree(staging)
        # Renamed away, not deleted: where something in it is open (Windows), it stays whole.
        if kind_of(target) != "nothing":
            target.rename(old)
        try:
            staging.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        durable.fsync_folder(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            durable.remove(staging)
        raise

    with contextlib.suppress(OSError):
        durable.remove(old)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One process at a time; the system releases the lock of one that is killed."""
    lock = FileLock(target.with_name(f".{target.name}.llamarec-lock"))
    with naming(target):
        try:
            lock.acquire()
        except NotImplementedError as error:
            # filelock's word for a file system without locks.
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(target)) from error

    try:
        yield
    finally:
        # While it is held: who waits for it takes another one. On Windows it stays where another process has it open.
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Replaces a text file; folders on the way are made."""
    with replacing(path) as staging:
        staging.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces a JSON file, indented for people."""
    write_text(path, json_bytes(content).decode())


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """A JSON file, indented for people."""
    return (json.dumps(content, indent=2) + "\n").encode()


def read_json(path: Path, shape: type[Any] | None = None, *, hint: Lines = _REPEAT) -> dict[str, Any] | None:
    """The content of a JSON file.

    Args:
        path: The file.
        shape: A TypedDict (or dataclass) of the fields that the program reads, with their types.
        hint: How to get it written anew.

    Returns:
        The object with all its fields; None where there is no file, or no JSON object in it.

    Raises:
        ArtifactError: it is a JSON object, and one of these fields is missing or has another type.
    """
    try:
        content = json_shapes.read_object(path)
    except (OSError, ShapeError):
        return None

    if shape is not None:
        try:
            json_shapes.shaped(content, shape)
        except ShapeError as error:
            raise _misshapen(path, error, hint) from error
    return content


def stored(content: object, shape: type[T], where: Path | str) -> T:
    """Stored values as a dataclass. Unknown fields are ignored: a later version may write more.

    Args:
        content: Plain values from JSON.
        shape: The dataclass.
        where: The file that they come from.

    Raises:
        ArtifactError: a field is missing or has another type; names the file.
    """
    try:
        return json_shapes.shaped(content, shape)
    except ShapeError as error:
        raise _misshapen(where, error) from error


def _misshapen(where: Path | str, error: ShapeError, hint: Lines = _REPEAT) -> ArtifactError:
    return ArtifactError(
        f"{where}: a field is missing, or has another type than this program writes",
        found=str(error),
        hint=hint,
    )


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file of a cache: any number of processes may do so at once, and a power cut may lose it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = _neighbour(path)
    try:
        staging.write_bytes(content)
        os.replace(staging, path)
    finally:
        durable.remove(staging)
