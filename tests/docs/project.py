"""A project folder in which the commands of a guide run as they stand there, in seconds.

What is put in the place of the real thing, and nothing else:

data       raw files of the name and format of `beauty`, with users who walk round a circle of 60 items
defaults   base model `tiny`, prompts of few items, one sample a step (so that step 1000 comes soon), validation and
           test on 8 users, candidates drawn and asked as published, no progress bars; a retriever of 30 epochs. They
           are defaults: a guide's flags count
stops      a training that a guide does not take to its end gets a SIGINT after some steps, as from Ctrl-C

Commands are called in this process: importing torch for each would take longer than all the rest.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import pytest
from filelock import FileLock

import train_ranker
import train_retriever
from llamarec.cli.entry_point import run_main
from llamarec.cli.main import main as llamarec
from llamarec.errors import EXIT_FINISHED, EXIT_INTERRUPTED
from llamarec.ranker.options import command_line, parser
from llamarec.ranker.training.trainer import RankerTrainer
from llamarec.retriever.config import DEFAULTS

# 17 training samples a user: one epoch is 1,020 steps of one sample.
NUM_USERS, NUM_ITEMS, LENGTH = 60, 60, 20
STEPS_UNTIL_STOP: Final = 3
_LAST_RUN: Final = "ran.json"
_RANKER_DEFAULTS: Final[dict[str, Any]] = {
    "llm_base_model": "tiny",
    "num_candidates": 4,
    "max_history": 3,
    "max_eval_users": 8,
    "max_test_users": 8,
    "candidate_order": "retriever",
    "hard_negatives": 0.0,
    "report_to": "none",
    "disable_tqdm": True,
}
_RETRIEVER_DEFAULTS: Final[dict[str, Any]] = {
    "hidden_size": 16,
    "num_epochs": 30,
    "dropout": 0.1,
    "batch_size": 8,
    "learning_rate": 3e-3,
}
_PROGRAMS: Final[dict[str, Callable[[], int]]] = {
    "train_ranker.py": train_ranker.main,
    "train_retriever.py": train_retriever.main,
}


@dataclass(frozen=True)
class Ran:
    """A command that was run: its exit code and everything that it printed."""

    command: str
    code: int
    said: str


def write_beauty(folder: Path, num_users: int = NUM_USERS) -> None:
    """Raw files of `beauty` under `folder/data`."""
    rng = np.random.default_rng(0)
    ratings = []
    for user in range(num_users):
        start, stride = int(rng.integers(NUM_ITEMS)), 1 + user % 3
        items = [(start + step * stride) % NUM_ITEMS for step in range(LENGTH)]
        ratings += [f"U{user},B{item},5.0,{1_500_000_000 + 86_400 * day}\n" for day, item in enumerate(items)]
    meta = "".join(f"{{'asin': 'B{item}', 'title': 'Soap {item}'}}\n" for item in range(NUM_ITEMS))
    raw = folder / "data" / "beauty"
    raw.mkdir(parents=True)
    (raw / "ratings_Beauty.csv").write_bytes("".join(ratings).encode())
    (raw / "meta_Beauty.json.gz").write_bytes(gzip.compress(meta.encode()))


@contextlib.contextmanager
def small_defaults(samples_per_step: int = 1) -> Iterator[None]:
    """The defaults of this module in the place of the program's."""
    recipe_defaults = command_line.recipe_defaults

    def small(given: Any, flags: set[str]) -> dict[str, Any]:
        sizes = {"per_device_train_batch_size": samples_per_step, "gradient_accumulation_steps": 1}
        return {**recipe_defaults(given, flags), **sizes, "use_cpu": True, "bf16": False}

    with pytest.MonkeyPatch.context() as patch:
        for name, value in _RANKER_DEFAULTS.items():
            patch.setitem(parser.RECIPE, name, value)
        patch.setattr(command_line, "recipe_defaults", small)
        patch.setitem(DEFAULTS, "beauty", _RETRIEVER_DEFAULTS)
        patch.delenv("LLAMAREC_DATA_ROOT", raising=False)
        # The Trainer sets it for the process; this way it is taken back.
        patch.setenv("TENSORBOARD_LOGGING_DIR", "logs")
        patch.setenv("COLUMNS", "120")
        yield


def run(command: str, folder: Path, *, stop_after: int = 0) -> Ran:
    """Runs a command line as a shell in `folder` would.

    Args:
        command: `python train_....py ...` or `llamarec ...`.
        folder: Its working folder.
        stop_after: Send SIGINT in the step that comes after so many; 0 = never.
    """
    words = shlex.split(command)
    if words[0] == "python" and words[1] in _PROGRAMS:
        main: Callable[[], int] = partial(run_main, _PROGRAMS[words[1]])
        argv = words[1:]
    elif words[0] == "llamarec":
        main, argv = llamarec, words
    else:
        raise AssertionError(f"a command that this test does not know: {command}")
    said = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        mock.patch.object(sys, "argv", argv),
        _stopped_after(stop_after),
    ):
        code = _code_of(main)
    return Ran(command, code, said.getvalue())


def _code_of(main: Callable[[], int]) -> int:
    """As Python ends a process."""
    try:
        return main()
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        traceback.print_exc()
        return 1


@contextlib.contextmanager
def _stopped_after(num_steps: int) -> Iterator[None]:
    if not num_steps:
        yield
        return
    training_step, left = RankerTrainer.training_step, [num_steps]

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            signal.raise_signal(signal.SIGINT)
        return training_step(self, *args, **kwargs)

    with mock.patch.object(RankerTrainer, "training_step", counted):
        yield


@dataclass(frozen=True)
class State:
    """A state of the project: the command that led there, from which other one, stopped after how many steps."""

    before: str
    command: str
    stop_after: int = 0


# Each is what the first section of the guides does.
STATES: Final[dict[str, State]] = {
    "ready": State("raw", "python train_retriever.py --dataset_code beauty"),
    "interrupted": State("ready", "python train_ranker.py --dataset_code beauty", 1003),
    "finished": State("interrupted", "python train_ranker.py --dataset_code beauty --resume_from_checkpoint"),
}


class Project:
    """The states of a project, made when they are first wanted.

    Args:
        root: Holds a folder for each state.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        # Several test processes share the states; each is made by one of them.
        self._root, self._lock = root, FileLock(root / "lock")

    def copy(self, state: str, folder: Path) -> Path:
        """A state to do something with, in a folder that is replaced."""
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(self._made(state), folder, ignore=shutil.ignore_patterns(_LAST_RUN)))

    def ran(self, state: str) -> Ran:
        """The command that made a state."""
        return Ran(**json.loads((self._made(state) / _LAST_RUN).read_text(encoding="utf-8")))

    def _made(self, name: str) -> Path:
        with self._lock:
            return self._make(name)

    def _make(self, name: str) -> Path:
        folder = self._root / name
        if folder.is_dir():
            return folder
        if name == "raw":
            write_beauty(folder)
            return folder
        state, staging = STATES[name], self._root / f"{name}.tmp"
        self.copy(state.before, staging)
        ran = run(state.command, staging, stop_after=state.stop_after)
        assert ran.code == (EXIT_INTERRUPTED if state.stop_after else EXIT_FINISHED), ran.said
        (staging / _LAST_RUN).write_text(json.dumps(asdict(ran)), encoding="utf-8")
        return staging.rename(folder)


def normalised(text: str) -> str:
    """A text without what differs from run to run: numbers, sizes, times, hosts, hashes, line breaks, columns."""
    text = re.sub(r"\s+", " ", text.replace("\\", "/"))
    text = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b", "#", text)
    text = re.sub(r"-?\d[\d,]*(\.\d+)?(e[+-]?\d+)?", "#", text)
    text = re.sub(r"# (B|kB|MB|GB|TB)\b", "# BYTES", text)
    text = re.sub(r"# (s|min|h|d|y)\b", "# TIME", text)
    return re.sub(r"\b(sizes|hashes) [BLPR]+\b", r"\1 MARKS", text).strip()
