"""Starts of a run that came to no further checkpoint: after too many in a row from one step, the next is refused.

A loop, a scheduler or `torchrun --max-restarts` would otherwise start a training for ever that fails at the same step.
starts.json in the run's folder has the starts since the newest checkpoint. A checkpoint's own sessions cannot tell:
a start that saves nothing is in none of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
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
        changes: Digest of the hyperparameters that were not as in the checkpoint; empty where all were.
    """

    step: Count
    started: str
    ended: str = ""
    changes: str = ""


def failed_starts(run: RunFolder, step: int, changes: str | None = None) -> list[FailedStart]:
    """Those from a step, oldest first; none where the record is missing or cannot be read.

    Args:
        run: The run's folder.
        step: From which they started.
        changes: Only those with the same hyperparameters; None for all.
    """
    try:
        found = json_shapes.read(run.starts, list[FailedStart])
    except (OSError, ShapeError):
        return []
    return [one for one in found if one.step == step and changes in (None, one.changes)]


def digest_of(changes: Iterable[str]) -> str:
    """What two starts with the same changes have in common; empty for none.

    A command that is repeated asks for the same change again until a save has it, so a change alone is no new try.
    """
    text = "\n".join(sorted(changes))
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16] if text else ""


def check_starts(run: RunFolder, step: int, most: int, changes: str = "") -> None:
    """Refuses one more start from a step.

    Args:
        run: The run's folder.
        step: From which training would continue.
        most: Failed starts in a row; 0 refuses none.
        changes: Digest of its other hyperparameters.

    Raises:
        CheckpointError: there have been that many.
    """
    found = failed_starts(run, step, changes)
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


def note_start(run: RunFolder, step: int, started: str, *, is_first: bool, changes: str = "") -> None:
    """Records a start, until `forget_starts`; those with other hyperparameters say nothing about it.

    Args:
        run: The run's folder.
        step: From which it starts.
        started: ISO time, UTC.
        is_first: Nothing is resumed: whatever was before does not count.
        changes: Digest of its other hyperparameters.
    """
    before = [] if is_first else failed_starts(run, step, changes)
    _write(run, [*before, FailedStart(step=step, started=started, changes=changes)])


def note_end(run: RunFolder, step: int, why: str) -> None:
    """Records why the last start from a step has ended."""
    found = failed_starts(run, step)
    if found:
        line = printable(without_credentials(why)).partition("\n")[0]
        text = line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."
        _write(run, [*found[:-1], replace(found[-1], ended=text)])


def forget_starts(run: RunFolder) -> None:
    """Training has come to its end, or was stopped by somebody."""
    with contextlib.suppress(OSError):
        durable.remove(run.starts)


def _write(run: RunFolder, starts: list[FailedStart]) -> None:
    # The budget is a help; no training depends on it.
    with contextlib.suppress(OSError):
        durable.write_note(run.starts, (json.dumps([asdict(one) for one in starts], indent=2) + "\n").encode())
