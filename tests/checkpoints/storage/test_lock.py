"""One run at a time in a folder."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import RunLock, describe_holder
from llamarec.errors import LockedError


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
