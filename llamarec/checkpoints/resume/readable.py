"""Whether the small files of a checkpoint have the form that a resume needs, whatever their hashes say.

A hash says that a file is what somebody wrote, not that this program wrote it. `latest` passes over a checkpoint that
fails here, as over a damaged one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.resume.progress import progress_in
from llamarec.checkpoints.resume.random_state_file import check_form
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.resume.trainer_state import read_trainer_state
from llamarec.checkpoints.storage.layout import RNG_PATTERN, SCHEDULER, TRAINER_STATE
from llamarec.errors import CheckpointError

_RATES: Final = ("_last_lr", "base_lrs")
_COUNTS: Final = ("last_epoch", "_step_count")
_MAX_COUNT: Final = 2**63 - 1


def check_readable(checkpoint: Path) -> None:
    """Raises if a resume could not read a checkpoint's progress, schedule or random states.

    Raises:
        HostileError: a file would execute code. No other checkpoint is taken instead: somebody should look.
        CheckpointError: a file has another form; it is named.
    """
    if (checkpoint / TRAINER_STATE).is_file():
        progress_in(read_trainer_state(checkpoint))
    if (checkpoint / SCHEDULER).is_file():
        schedule_state(checkpoint / SCHEDULER)
    for path in sorted(checkpoint.iterdir()):
        if RNG_PATTERN.fullmatch(path.name):
            check_form(load_pickled(path), str(path), needs_all=False)


def schedule_state(path: Path) -> dict[str, Any]:
    """The state of a learning-rate schedule.

    Raises:
        CheckpointError: it is not one.
    """
    state = load_pickled(path)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise _of_another_form(path, "a dictionary", type(state).__name__)

    for name in _RATES:
        if name in state and not _are_rates(state[name]):
            raise _of_another_form(path, f"{name}: a list of numbers", type(state[name]).__name__)
    for name in _COUNTS:
        if name in state and not _is_count(state[name]):
            raise _of_another_form(path, f"{name}: a whole number", str(type(state[name]).__name__))
    return state


def _are_rates(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and all(map(_is_rate, value))


def _is_rate(value: object) -> bool:
    # Rates of capturable optimizers are tensors of one number.
    if hasattr(value, "numel"):
        return bool(value.numel() == 1)
    return isinstance(value, float | int) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    # -1 before the first step.
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value <= _MAX_COUNT


def _of_another_form(path: Path, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read",
        expected=f"the state of a learning-rate schedule: {expected}",
        found=found,
        hint="resume from another checkpoint (llamarec checkpoints list)",
    )
