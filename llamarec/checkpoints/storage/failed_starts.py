"""Starts of a run that came to no further checkpoint: after too many in a row from one step, the next is refused.

A loop, a scheduler or `torchrun --max-restarts` would otherwise start a training for ever that fails at the same step.
starts.json in the run's folder has the starts since the newest checkpoint. A checkpoint's own sessions cannot tell:
a start that saves nothing is in none of them.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import Final

from llamarec.checkpoints.storage import durable, json_shapes
from llamarec.checkpoints.storage.json_shapes import Count, ShapeError
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.credentials import without_credentials
from llamarec.errors import CheckpointError, printable

_FLAG: Final = "--max_failed_starts"
_WIDTH: Final = 160
_SHOWN: Final = 3


@dataclass(frozen=True, kw_only=True)
class FailedStart:
    """One start that has not come to a checkpoint, or not yet.

    Attributes:
        step: Of the checkpoint from which it started.
        started: ISO time, UTC.
        ended: Why it ended, in one line; empty where it could not say.
    """

    step: Count
    started: str
    ended: str = ""


def failed_starts(run: RunFolder, step: int) -> list[FailedStart]:
    """Those from a step, oldest first; none where the record is missing or cannot be read."""
    try:
        return [one for one in json_shapes.read(run.starts, list[FailedStart]) if one.step == step]
    except (OSError, ShapeError):
        return []


def check_starts(run: RunFolder, step: int, most: int) -> None:
    """Refuses one more start from a step.

    Args:
        run: The run's folder.
        step: From which training would continue.
        most: Failed starts in a row; 0 refuses none.

    Raises:
        CheckpointError: there have been that many.
    """
    found = failed_starts(run, step)
    if not most or len(found) < most:
        return

    where = f"checkpoint-{step}" if step in run.steps() else f"step {step:,}"
    lines = [f"{one.started[:19].replace('T', ' ')} UTC: {one.ended or 'killed, without a word'}" for one in found]
    earlier = [f"or go back: --resume_from_checkpoint {run.checkpoint(one)}" for one in run.steps() if one < step]
    raise CheckpointError(
        f"{len(found)} starts in a row from {where} ended before the next save",
        expected=f"a save, or a stop by a signal, in one of {most} starts ({_FLAG})",
        found=lines[-_SHOWN:],
        hint=[
            "mend what ended them; if they were killed: more memory, or a smaller --save_seconds",
            *earlier[-1:],
            f"to try again as it is: {_FLAG} 0",
        ],
        retry_with=(_FLAG, "0"),
    )


def note_start(run: RunFolder, step: int, started: str, *, is_changed: bool) -> None:
    """Records a start, until `forget_starts`.

    Args:
        run: The run's folder.
        step: From which it starts.
        started: ISO time, UTC.
        is_changed: It has other hyperparameters, so that those before it say nothing about it.
    """
    before = [] if is_changed else failed_starts(run, step)
    _write(run, [*before, FailedStart(step=step, started=started)])


def note_end(run: RunFolder, step: int, why: str) -> None:
    """Records why the last start from a step has ended."""
    found = failed_starts(run, step)
    if found:
        line = printable(without_credentials(why)).partition("\n")[0]
        text = line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."
        _write(run, [*found[:-1], FailedStart(step=step, started=found[-1].started, ended=text)])


def forget_starts(run: RunFolder) -> None:
    """Training has come to its end, or was stopped by somebody."""
    with contextlib.suppress(OSError):
        durable.remove(run.starts)


def _write(run: RunFolder, starts: list[FailedStart]) -> None:
    # The budget is a help; no training depends on it.
    with contextlib.suppress(OSError):
        durable.write_note(run.starts, (json.dumps([asdict(one) for one in starts], indent=2) + "\n").encode())
