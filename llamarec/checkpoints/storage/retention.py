"""Which checkpoints to delete: a pure function of what there is. Standard library only.

The order is that of the saves (`sequence`), never of time stamps: a clock that was set back, or a copied folder, must
not cost the newest checkpoint. After a resume from an older one the new line of saves counts as newer than the old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SavedCheckpoint:
    """What retention knows of one checkpoint.

    Attributes:
        step: Optimizer steps.
        sequence: Number of the save; -1 without a readable manifest, where the step decides.
        is_good: It verifies (names and sizes at least).
        reason: Why it was saved.
        best_step: The best step as this checkpoint knows it.
    """

    step: int
    sequence: int
    is_good: bool
    reason: str = "scheduled"
    best_step: int | None = None


# Saved for a moment, not for the record: kept only while nothing newer is there.
_PASSING = ("time", "signal", "exception", "best")


def newest_first(checkpoints: Sequence[SavedCheckpoint]) -> list[SavedCheckpoint]:
    """Ordered by save.

    One without a number of its own (a plain Trainer's, or of unreadable manifest) is newer than the saves of all lower
    steps: that is what somebody who went on with a plain Trainer means.
    """
    numbered = [kept for kept in checkpoints if kept.sequence >= 0]

    def place(kept: SavedCheckpoint) -> tuple[float, int]:
        if kept.sequence >= 0:
            return kept.sequence, kept.step
        below = [other.sequence for other in numbered if other.step < kept.step]
        return max(below, default=-1) + 0.5, kept.step

    return sorted(checkpoints, key=place, reverse=True)


def protected(checkpoints: Sequence[SavedCheckpoint], limit: int) -> dict[int, str]:
    """Steps that must stay, each with the reason.

    Args:
        checkpoints: What lies in the run's folder.
        limit: How many of the scheduled saves are kept (`save_total_limit`), at least 1.
    """
    good = [kept for kept in newest_first(checkpoints) if kept.is_good]
    reasons: dict[int, str] = {}
    scheduled = [kept for kept in good if kept.reason not in _PASSING]
    for kept in scheduled[: max(limit, 1)]:
        reasons[kept.step] = f"one of the last {limit}"
    if good:
        reasons[good[0].step] = "newest good one"
    there = {kept.step for kept in good}
    # A resume from any kept checkpoint needs the best model that it knows.
    for kept in [kept for kept in good if kept.step in reasons]:
        if kept.best_step in there and kept.best_step is not None:
            newest = bool(good) and kept is good[0]
            reasons.setdefault(kept.best_step, "best" if newest else f"best as of step {kept.step}")
    return reasons


def to_delete(checkpoints: Sequence[SavedCheckpoint], limit: int | None) -> list[int]:
    """Steps to delete, oldest save first; nothing without a limit, and nothing while none is good.

    >>> saves = [SavedCheckpoint(100 * i, sequence=i, is_good=True, best_step=100) for i in (1, 2, 3, 4, 5)]
    >>> to_delete(saves, limit=3)
    [200]
    """
    if not limit or limit < 1 or not any(kept.is_good for kept in checkpoints):
        return []
    stay = protected(checkpoints, limit)
    # What is neither good nor readably ours is somebody's, or worth a look: never deleted without being asked.
    ours = [kept for kept in newest_first(checkpoints) if kept.is_good or kept.sequence >= 0]
    return [kept.step for kept in reversed(ours) if kept.step not in stay]
