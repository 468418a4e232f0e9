"""What the forked children do: train in a folder, and be killed at a chosen effect on the disk."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import itertools
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.layout import BEST_MANIFEST, RunFolder
from llamarec.checkpoints.trainer import starting
from llamarec.checkpoints.trainer.saves import saver, writer
from tests.resume import forks
from tests.resume.observers import FailAt, KillAt, Recording, observed, room_is_not_asked_for
from tests.resume.training import make_model, make_trainer, outcome

# The metric gets worse from step 9 on, and patience ends in mid-epoch at step 21: a counter that a resume loses shows.
EARLY_STOP: dict[str, Any] = {"learning_rate": 0.1, "lr_scheduler_type": "constant"}


def train(
    folder: str,
    *,
    resume: str = "latest",
    kill_at: int | None = None,
    fail_at: int | None = None,
    fail_for: float = math.inf,
    odd: Sequence[str] = (),
    published: str = "",
    config: dict[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """The hard training in a folder, from its newest checkpoint or from the start.

    Args:
        folder: The run's folder.
        resume: What to resume.
        kill_at: Number of the effect at which to be killed.
        fail_at: Number of the effect from which on the disk is full.
        fail_for: Effects that fail, from there on.
        odd: What else is wrong: clock (it is set back all the time), room (nobody asks whether there is any).
        published: A file that gets a line for every checkpoint that is published.
        config: Options of `CheckpointConfig`.
        changes: Of the training arguments.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    recording = Recording()
    observer: durable.Observer = recording if kill_at is None else KillAt(kill_at)
    if fail_at is not None:
        observer = FailAt(fail_at, fail_for, errno.ENOSPC, ("unlink", "remove"))
    with contextlib.ExitStack() as stack:
        stack.enter_context(observed(observer))
        stack.enter_context(announced(published))
        for what in odd:
            stack.enter_context(_ODD[what]())
        training = make_trainer(Path(folder), CheckpointConfig(**(config or {})), **{**EARLY_STOP, **changes})
        training.train(resume)
    return {
        "outcome": _outcome_if_any(Path(folder)),
        "effects": recording.effects,
        "last_save_failed": training.last_save_failed,
        "step": training.state.global_step,
        "failed": observer.failed if isinstance(observer, FailAt) else [],
    }


def _outcome_if_any(folder: Path) -> dict[str, Any] | None:
    """None where a full disk had no room for a checkpoint and a best model."""
    there = RunFolder(folder).checkpoints() and (folder / BEST_MANIFEST).is_file()
    return outcome(folder) if there else None


@contextlib.contextmanager
def announced(path: str) -> Iterator[None]:
    """Within, the steps of all published checkpoints are appended to a file, as they are."""
    module: Any = writer
    before = module.publish

    def publish(*arguments: Any) -> Any:
        manifest = before(*arguments)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{manifest.step}\n".encode())
        os.close(descriptor)
        return manifest

    if path:
        module.publish = publish
    try:
        yield
    finally:
        module.publish = before


@contextlib.contextmanager
def clock_set_back() -> Iterator[None]:
    """Within, every look at the clock shows an hour less."""
    hours = itertools.count()

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Earlier:
            return cls.fromtimestamp(_SOME_TIME - 3600 * next(hours), tz)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: _SOME_TIME - 3600.0 * next(hours))
        for module in (saver, starting):
            patch.setattr(module, "datetime", Earlier)
        yield


_SOME_TIME: Final = 1.8e9
_ODD: Final = {"clock": clock_set_back, "room": room_is_not_asked_for}


def warm_up(folder: Path) -> None:
    """Imports what a training imports late, so that no child has to."""
    torch.set_num_threads(1)
    modules = forks.run(folder / "child", _modules_of_a_training, folder=str(folder / "run"))
    if modules.status:
        raise RuntimeError(modules.log)
    for name in modules.result:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    make_model()  # PEFT works out some things once in a process
    gc.collect()
    gc.freeze()  # or each child's collections would copy every page that it shares


def _modules_of_a_training(folder: str) -> list[str]:
    import sys

    train(folder, max_steps=3)
    return sorted(set(sys.modules) - {"__main__"})
