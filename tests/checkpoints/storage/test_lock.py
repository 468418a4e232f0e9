"""One run at a time in a folder."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from llamarec.checkpoints.config import ProgramHints
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import RunLock, describe_holder
from llamarec.checkpoints.storage.recovery import recover
from llamarec.errors import CheckpointError, LockedError


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with RunLock(run):
        with pytest.raises(LockedError) as error:
            RunLock(run).acquire()
        assert str(error.value).startswith(f"another run is training in {run.path}")
        assert f"process {os.getpid()} on " in str(error.value)
        # That it failed takes nothing from the first.
        assert run.holder.exists()
    assert not run.holder.exists()
    with RunLock(run):
        pass


def test_releasing_without_holding_is_harmless(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with RunLock(run):
        other = RunLock(run)
        other.release()
        assert run.holder.exists()
        with pytest.raises(LockedError):
            other.acquire()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": 1, "host": "x", "started": 5}'])
def test_a_holder_that_cannot_be_read(content: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert describe_holder(run) == "an unknown process"
    run.holder.write_text(content, encoding="utf-8")
    assert describe_holder(run) == "an unknown process"


def _hold_and_die(folder: Path, ready: Any) -> None:
    lock = RunLock(RunFolder(folder))
    lock.acquire()
    ready.send(os.getpid())
    ready.recv()
    os._exit(9)


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_hold_and_die, args=(tmp_path, there))
    process.start()
    run, pid = RunFolder(tmp_path), here.recv()
    with pytest.raises(LockedError, match=f"process {pid} on "):
        RunLock(run).acquire()
    here.send("die")
    process.join()
    assert run.holder.exists()
    with RunLock(run):
        assert f"process {os.getpid()} on " in describe_holder(run)


@pytest.mark.parametrize(
    ("error", "problem", "hint"),
    [
        (OSError(errno.ENOLCK, "No locks available"), "cannot be locked", "on a local disk"),
        (OSError(errno.EOPNOTSUPP, "Operation not supported"), "cannot be locked", "on a local disk"),
        (NotImplementedError("FileSystem does not appear to support flock"), "cannot be locked", "on a local disk"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written", "chmod u+w"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be written", "make room"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written", "mounted read-only"),
    ],
    ids=["no locks", "not supported", "filelock", "forbidden", "full", "read-only"],
)
def test_each_error_has_its_own_advice(
    error: Exception, problem: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", fails)
    with pytest.raises(CheckpointError, match=problem) as caught:
        RunLock(RunFolder(tmp_path)).acquire()
    advice = str(caught.value.hint)
    assert hint in advice
    assert sum(word in advice for word in ("chmod", "make room", "local disk", "read-only")) == 1


def test_a_folder_that_cannot_be_synced_is_not_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("llamarec.checkpoints.storage.durable.fsync_folder", fails)
    with pytest.raises(CheckpointError) as caught:
        recover(RunFolder(tmp_path), ProgramHints(other_folder="--elsewhere"))
    assert "make room" not in str(caught.value.hint)
    assert str(caught.value.hint).startswith("--elsewhere on a local disk")
    assert "cannot put a folder safely on the disk" in str(caught.value.hint)
