"""Cases of the fuzzer: a seed is one mutation of one checkpoint, in a process that it may end."""

from __future__ import annotations

import multiprocessing
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from llamarec.checkpoints.storage.layout import RunFolder
from tests.checkpoints.factory import make_run
from tests.fuzz.checks import check
from tests.fuzz.inputs import run_input_case
from tests.fuzz.mutations import MUTATIONS

CHANGED = 300
SECONDS_PER_CASE = 30


def run_case(seed: int, folder: Path, *, commands: bool = True) -> str:
    """One case in an empty folder; returns what was changed.

    Raises:
        Exception: what did not hold.
    """
    draw = random.Random(seed)
    run = make_run(folder / "run")
    mutation = draw.choice(MUTATIONS)
    done = mutation(draw, run.checkpoint(CHANGED))
    try:
        check(RunFolder(run.path), CHANGED, mutation, commands=commands)
    except BaseException as error:
        error.add_note(f"seed {seed}: {done}")
        raise
    return done


def _work(cases: Connection) -> None:
    """Runs the cases that arrive, and answers each with what was changed or what went wrong."""
    warnings.simplefilter("ignore")
    while True:
        seed = cases.recv()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                # Every other case is about something else than a checkpoint.
                run = run_case if seed % 2 else run_input_case
                cases.send(("good", run(seed, Path(folder))))
            except BaseException as error:
                cases.send(("bad", "".join(traceback.format_exception(error))))


class Worker:
    """A process for cases, replaced after one that ended it."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._cases, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, seed: int, seconds: float) -> tuple[str, str]:
        """What came of a case: good or bad, and its text."""
        self._cases.send(seed)
        try:
            if self._cases.poll(seconds):
                found: tuple[str, str] = self._cases.recv()
                return found
            said = f"seed {seed}: no end after {seconds:g} s"
        except (EOFError, OSError):
            self._process.join()
            said = f"seed {seed}: ended by {self._process.exitcode}"
        self.close()
        self._start()
        return "bad", said

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()


def fuzz(seed: int, seconds: float, cases: int | None = None) -> tuple[Counter[str], list[str]]:
    """Runs cases for some time.

    Args:
        seed: Of the first case; the others count up from it.
        seconds: How long.
        cases: At most so many.

    Returns:
        Cases by kind of mutation, and what went wrong.
    """
    end, kinds, wrong, number = time.monotonic() + seconds, Counter[str](), [], 0
    worker = Worker()
    try:
        while time.monotonic() < end and (cases is None or number < cases):
            # The first case of a process loads the libraries.
            state, text = worker.run(seed + number, SECONDS_PER_CASE + (60 if not number else 0))
            number += 1
            kinds[text.partition(":")[0] if state == "good" else "wrong"] += 1
            if state == "bad":
                wrong.append(text)
                print(text, file=sys.stderr, flush=True)
    finally:
        worker.close()
    return kinds, wrong
