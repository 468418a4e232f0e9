"""Verified copies of checkpoints, to any store that fsspec reaches and back.

On a local disk a copy is staged and renamed, like a save. Elsewhere no rename is safe, so `.copying` is written first
and the manifest last: a folder without a manifest is not a copy. Every file is hashed while it is copied, then read
back.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import replace as replaced
from functools import partial
from pathlib import Path
from typing import BinaryIO

from llamarec.checkpoints.backup.contents import COPYING, Content, claim, content_of, one_of
from llamarec.checkpoints.backup.stores import Store, open_store
from llamarec.checkpoints.storage import durable, publish
from llamarec.checkpoints.storage.entries import read_bytes
from llamarec.checkpoints.storage.layout import MANIFEST, RunFolder, max_bytes_of, step_of
from llamarec.checkpoints.storage.lock import RunLock, describe_holder
from llamarec.checkpoints.storage.manifest import FileEntry, parse_manifest
from llamarec.checkpoints.storage.ownership import check_same_run
from llamarec.checkpoints.storage.readable_units import readable
from llamarec.checkpoints.storage.space import free_bytes, needed_bytes
from llamarec.checkpoints.storage.verification import verify
from llamarec.errors import CheckpointError, LockedError, SpaceError


def backup(checkpoint: Path, destination: str | Store, replace: bool = False) -> str:
    """Copies a checkpoint to `{destination}/checkpoint-{step}`, unless an intact copy exists there.

    Args:
        checkpoint: A folder checkpoint-{step}.
        destination: A folder, or an address that fsspec knows.
        replace: Whether to replace another checkpoint of the same step.

    Returns:
        Path or address of the copy.

    Raises:
        CheckpointError: the checkpoint is damaged or incomplete, the destination cannot be reached, or it has another
            checkpoint of that name. No unfinished copy is left.
        LockedError: another process is copying there (local destinations).
        SpaceError: it does not fit (local destinations).
    """
    verdict = verify(checkpoint, deep=False)
    if not verdict.is_resumable:
        raise CheckpointError(
            f"{checkpoint} is not backed up: it is {verdict.health}",
            found=verdict.reason,
            hint=f"llamarec checkpoints backup {checkpoint.parent} {destination}   takes the newest good one",
        )

    store = destination if isinstance(destination, Store) else open_store(destination)
    source = replaced(open_store(checkpoint), pulse=store.pulse)
    content = content_of(source)
    target = store.below(f"checkpoint-{content.step}")

    if not target.is_local:
        if not _has_copy(target, content, replace):
            _send(source, content, target)
        return target.url

    run = RunFolder(Path(target.path).parent)
    with _local_errors(source, run), locked(run, store.url):
        if not _has_copy(target, content, replace):
            _copy_in(source, content, run)
    return os.path.normpath(target.path)


def remove_copy(copy: Store) -> None:
    """Deletes a copy; one that a kill leaves half deleted is no copy any more.

    Raises:
        CheckpointError: the store cannot be reached.
        LockedError: another process writes there (local stores).
    """
    if copy.is_local:
        path = Path(copy.path)
        run, step = RunFolder(path.parent), step_of(path)
        if step is not None and path.is_dir():
            with _local_errors(copy, run), locked(run, copy.url):
                publish.delete(run, step)
        return

    copy.write(COPYING, [b"This copy is being deleted.\n"])
    copy.remove(MANIFEST)
    for name in copy.names():
        if name != COPYING:
            copy.remove(name)
    copy.remove(COPYING)


def restore(source: str | Store, run: RunFolder, replace: bool = False) -> Path:
    """Copies a checkpoint back into a run's folder; the caller holds the run's lock.

    Args:
        source: Store, folder or address of one checkpoint, or of several; then the newest is restored.
        run: The run's folder.
        replace: Whether to replace a good checkpoint of the same step. A damaged one is always replaced.

    Returns:
        The checkpoint's folder in the run.

    Raises:
        CheckpointError: the source is missing, incomplete, damaged or hostile; or the folder already has a good
            checkpoint of that step, or the checkpoints of another run.
        SpaceError: it does not fit.
    """
    store = one_of(source if isinstance(source, Store) else open_store(source))
    content = content_of(store)
    if content.manifest is not None:
        check_same_run(run, parse_manifest(content.manifest, store.url), store.url)

    target = run.checkpoint(content.step)
    verdict = verify(target) if target.is_dir() else None
    if verdict and verdict.is_resumable:
        same = content.manifest is not None and (target / MANIFEST).is_file()
        if same and read_bytes(target / MANIFEST, max_bytes_of(MANIFEST)) == content.manifest:
            return target
        if not replace:
            raise CheckpointError(
                f"{target} is a good checkpoint and differs from {store.url}",
                hint="--replace to replace it",
            )

    _copy_in(store, content, run)
    return target


def _copy_in(source: Store, content: Content, run: RunFolder) -> None:
    """Copies to a local folder: staged, read back, and published with one rename."""
    free = free_bytes(run.path)
    if free < needed_bytes(content.num_bytes):
        raise SpaceError(
            f"the disk of {run.path} has no room for {source.url}",
            expected=f"{readable(needed_bytes(content.num_bytes))} free",
            found=f"{readable(free)} free",
            hint="llamarec checkpoints du   shows what takes how much and what prune would free",
        )

    with _local_errors(source, run), publish.staged(run.saving(content.step)) as staging:
        for name, entry in content.files.items():
            path = staging.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            staging.write_with(name, partial(_pour, source, name))
            _require(staging.files[name], entry, source, name)
            if FileEntry(path.stat().st_size, durable.sha256_of(path)) != entry:
                raise _arrived_differently(str(path))

        if content.manifest is None:
            _require_plain(staging.path, source)
            durable.fsync_folder(staging.path)
        else:
            staging.finish(MANIFEST, content.manifest)
        publish.take_name(run, content.step)


def _send(source: Store, content: Content, target: Store) -> None:
    """Copies to a store that cannot rename: the manifest goes last, and a failed copy is removed."""
    try:
        target.write(COPYING, [b"A copy is being made; without a manifest it is none.\n"])
        target.remove(MANIFEST)
        for name, entry in content.files.items():
            _require(target.write(name, source.chunks(name)), entry, source, name)
            if target.entry(name) != entry:
                raise _arrived_differently(f"{target.url}/{name}")

        if content.manifest is not None:
            target.write(MANIFEST, [content.manifest])
            if target.read(MANIFEST) != content.manifest:
                raise _arrived_differently(f"{target.url}/{MANIFEST}")
        target.remove(COPYING)
    except BaseException:
        with contextlib.suppress(CheckpointError):
            target.remove_all()
        raise


def _has_copy(target: Store, content: Content, replace: bool) -> bool:
    """Whether the target already has an intact copy; False also for files that may be overwritten.

    Args:
        target: Where the copy belongs.
        content: What is to be copied.
        replace: Whether another checkpoint may be overwritten.

    Raises:
        CheckpointError: the target has another checkpoint.
    """
    names = set(target.names())
    if not names or (COPYING in names and MANIFEST not in names):
        return False

    manifest = target.read(MANIFEST) if MANIFEST in names else None
    intact = content.files.keys() <= names and all(target.entry(name) == content.files[name] for name in content.files)
    if manifest == content.manifest and (intact or manifest is not None):
        if intact:
            target.remove(COPYING)
        return intact

    if replace:
        return False
    raise CheckpointError(
        f"{target.url} already exists and is another checkpoint",
        expected="a free name, or a copy of the same checkpoint",
        found=claim(manifest),
        hint="choose another destination, or remove that one first",
    )


def _pour(source: Store, name: str, file: BinaryIO) -> None:
    for chunk in source.chunks(name):
        file.write(chunk)


def _require(sent: FileEntry, entry: FileEntry, source: Store, name: str) -> None:
    if sent != entry:
        size = f"{sent.num_bytes:,} bytes instead of {entry.num_bytes:,}"
        raise CheckpointError(
            f"{source.url} is damaged: {name} has changed since the save",
            found=size if sent.num_bytes != entry.num_bytes else "SHA-256 differs",
            hint="choose another checkpoint: llamarec checkpoints verify RUN   lists the good ones",
        )


def _require_plain(staging: Path, source: Store) -> None:
    verdict = verify(staging)
    if not verdict.is_resumable:
        raise CheckpointError(f"{source.url} is {verdict.health}", found=verdict.reason)


def _arrived_differently(where: str) -> CheckpointError:
    return CheckpointError(f"{where} {publish.NOT_AS_WRITTEN}", hint="try another destination")


@contextlib.contextmanager
def locked(run: RunFolder, destination: str) -> Iterator[None]:
    """The lock of the target's folder: two processes that stage the same step would delete each other's files."""
    try:
        with RunLock(run):
            yield
    except LockedError as error:
        raise LockedError(
            f"another process writes to {destination}", found=describe_holder(run), hint="wait for it"
        ) from error


@contextlib.contextmanager
def _local_errors(source: Store, run: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = SpaceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else CheckpointError
        raise kind(f"{source.url} could not be copied to {run.path}", found=str(error)) from error
