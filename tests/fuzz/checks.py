"""What must hold of a run, whatever one of its checkpoints has become."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable

from llamarec.checkpoints.backup.copies import backup
from llamarec.checkpoints.resume.readable import check_readable
from llamarec.checkpoints.resume.safe_load import load_pickled, load_weights, refuse_hostile, weights_in
from llamarec.checkpoints.resume.trainer_state import read_trainer_state, stopped_early
from llamarec.checkpoints.storage.discovery import inspect, latest, next_sequence
from llamarec.checkpoints.storage.layout import PICKLE_SUFFIXES, RunFolder
from llamarec.checkpoints.storage.recovery import recover
from llamarec.checkpoints.storage.summary import gather, latest_and_best, save_limit
from llamarec.checkpoints.storage.verification import HostileError, verify
from llamarec.cli.main import main
from llamarec.errors import LlamarecError
from tests.fuzz.mutations import change_bytes, marker_of


class BrokenPromiseError(AssertionError):
    """What did not hold."""


def check(run: RunFolder, changed: int, how: object, *, commands: bool) -> None:
    """Uses a run in every way that reads it.

    Args:
        run: The run, with one changed checkpoint.
        changed: Step of that checkpoint.
        how: What changed it.
        commands: Whether the commands are run too.

    Raises:
        BrokenPromiseError: another checkpoint was blocked, code was executed, or changed bytes passed for good.
        Exception: something else than a `LlamarecError` was raised.
    """
    checkpoint = run.checkpoint(changed)
    others = [step for step in run.steps() if step != changed]

    _allowed(lambda: recover(run))
    verdicts = {verdict.path: verdict for verdict in inspect(run, deep=True)}
    _require(all(verdicts[run.checkpoint(step)].health == "good" for step in others), "another one is not good")
    _require(how is not change_bytes or verdicts[checkpoint].health != "good", "changed bytes pass for good")

    summaries = gather(run, deep=False)
    latest_and_best(summaries), save_limit(summaries), next_sequence(run)
    _require(len(summaries) == len(others) + 1, "a checkpoint is not listed")
    for checked in (None, check_readable):
        with contextlib.suppress(HostileError):
            choice = latest(run, check=checked)
            _require(choice is not None, "no checkpoint is found")

    for path in sorted(checkpoint.rglob("*")):
        if path.suffix in PICKLE_SUFFIXES:
            _allowed(lambda path=path: load_pickled(path))  # type: ignore[misc]
    _allowed(lambda: refuse_hostile(checkpoint))
    _allowed(lambda: load_weights(checkpoint))
    _allowed(lambda: list(weights_in(checkpoint)))
    _allowed(lambda: stopped_early(read_trainer_state(checkpoint)))
    target = run.path.parent / "copies"
    _allowed(lambda: backup(checkpoint, str(target)))
    shutil.rmtree(target, ignore_errors=True)

    if commands:
        where = str(run.path)
        for words in (["list"], ["list", "--verify"], ["verify"], ["prune", "--keep", "1", "--dry_run"]):
            _command([words[0], where, *words[1:]])
        for words in (
            ["show", str(checkpoint)],
            ["show", str(checkpoint), "--json"],
            ["list", str(run.path), "--json"],
        ):
            _command(words)
        _command(["diff", str(checkpoint), str(run.checkpoint(others[0]))])
        _command(["plan", str(run.path)])
    _require(not marker_of(checkpoint).exists(), "code was executed")
    _require(verify(run.checkpoint(others[0])).health == "good", "another one was changed")


def _allowed(action: Callable[[], object]) -> None:
    """Runs something that may be refused in words."""
    try:
        action()
    except LlamarecError as error:
        str(error).encode()


def _command(words: list[str]) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(["checkpoints", *words])
    _require(code in (0, 1, 2), f"{words[0]} ended with {code}")
    _require("Traceback" not in out.getvalue(), f"{words[0]} printed a traceback")
    _require("\x1b" not in out.getvalue(), f"{words[0]} printed control characters")


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise BrokenPromiseError(text)
