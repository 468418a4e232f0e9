"""Which checkpoints to delete: a pure function of the checkpoints that exist. Standard library only.

The order is that of the saves (`sequence`), never of time stamps: a clock that was set back, or a copied folder, must
not cost the newest checkpoint. After a resume from an older one the new line of saves counts as newer than the old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SavedCheckpoint:
    """One checkpoint as retention sees it.

    Attributes:
        step: Optimizer steps.
        sequence: Number of the save; -1 without a readable manifest, where the step decides.
        is_good: It verifies (names and sizes at least).
        reason: Reason of the save.
        best_step: The best step so far, according to this checkpoint.
    """

    step: int
    sequence: int
    is_good: bool
    reason: str = "scheduled"
    best_step: int | None = None


# Reasons of saves that are kept only until there is a newer one.
_PASSING = ("time", "signal", "exception", "best")


def newest_first(checkpoints: Sequence[SavedCheckpoint]) -> list[SavedCheckpoint]:
    """Checkpoints in the order of their saves, newest first.

    A checkpoint without a number (a plain Trainer's, or with an unreadable manifest) counts as newer than all saves of
    lower steps: that is what somebody means who continued with a plain Trainer.
    """
    numbered = [saved for saved in checkpoints if saved.sequence >= 0]

    def order(saved: SavedCheckpoint) -> tuple[float, int]:
        if saved.sequence >= 0:
            return saved.sequence, saved.step
        below = [other.sequence for other in numbered if other.step < saved.step]
        return max(below, default=-1) + 0.5, saved.step

    return sorted(checkpoints, key=order, reverse=True)


def protected(checkpoints: Sequence[SavedCheckpoint], limit: int) -> dict[int, str]:
    """Steps that must stay, each with the reason.

    Args:
        checkpoints: All checkpoints in the run's folder.
        limit: Number of scheduled saves to keep (`save_total_limit`), at least 1.
    """
    good = [saved for saved in newest_first(checkpoints) if saved.is_good]
    reasons: dict[int, str] = {}

    scheduled = [saved for saved in good if saved.reason not in _PASSING]
    for saved in scheduled[: max(limit, 1)]:
        reasons[saved.step] = f"one of the last {limit}"
    if good:
        reasons[good[0].step] = "newest good one"

    # A resume from any checkpoint that stays needs the best model that it records.
    steps = {saved.step for saved in good}
    for saved in [saved for saved in good if saved.step in reasons]:
        if saved.best_step in steps and saved.best_step is not None:
            newest = bool(good) and saved is good[0]
            reasons.setdefault(saved.best_step, "best" if newest else f"best as of step {saved.step}")
    return reasons


def to_delete(checkpoints: Sequence[SavedCheckpoint], limit: int | None) -> list[int]:
    """Steps to delete, oldest save first; none without a limit, and none while no checkpoint is good.

    >>> saves = [SavedCheckpoint(100 * i, sequence=i, is_good=True, best_step=100) for i in (1, 2, 3, 4, 5)]
    >>> to_delete(saves, limit=3)
    [200]
    """
    if not limit or limit < 1 or not any(saved.is_good for saved in checkpoints):
        return []
    stay = protected(checkpoints, limit)
    # A folder that is neither good nor has a readable manifest may be somebody else's: never deleted unasked.
    ours = [saved for saved in newest_first(checkpoints) if saved.is_good or saved.sequence >= 0]
    return [saved.step for saved in reversed(ours) if saved.step not in stay]
