"""The rate at which checkpoints fill a disk: a pure function of sizes and times. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Final, Literal

State = Literal["growing", "steady", "idle", "unknown"]

# After this many of its usual pauses without a save, a run counts as finished or interrupted.
_PATIENCE: Final = 10


@dataclass(frozen=True)
class Save:
    """One checkpoint on the disk.

    Attributes:
        created: Time in UTC; None if unknown.
        num_bytes: Size in bytes.
        reason: Reason of the save, as in the manifest.
    """

    created: datetime | None
    num_bytes: int
    reason: str = "scheduled"


@dataclass(frozen=True)
class Growth:
    """The growth of a run's folder.

    Attributes:
        state: growing; steady (retention deletes as much as is written); idle (nothing is being written); unknown.
        bytes_per_hour: Rate while it is growing.
        at_most: Bytes until retention sets in; infinite if the run keeps all checkpoints.
        why: The reason, in a few words.
    """

    state: State
    bytes_per_hour: float = 0.0
    at_most: float = math.inf
    why: str = ""


def growth(saves: Sequence[Save], limit: int | None, now: datetime) -> Growth:
    """The growth of a run's folder from now on.

    The rate is the size of the newest save divided by the median pause between saves, so that one long interruption
    does not change it.

    Args:
        saves: Existing checkpoints, oldest first.
        limit: Number of checkpoints that the run keeps (`save_total_limit`); None for all.
        now: Current time in UTC.
    """
    if not saves:
        return Growth("idle", why="no checkpoints")
    if saves[-1].reason == "final":
        return Growth("idle", why="finished")

    times = [save.created for save in saves if save.created is not None]
    pauses = [seconds for a, b in pairwise(times) if (seconds := (b - a).total_seconds()) > 0]
    if not pauses:
        return Growth("unknown", why="fewer than two saves with a time")

    pause = median(pauses)
    if (now - times[-1]).total_seconds() > _PATIENCE * pause:
        return Growth("idle", why="no save for a while")

    size = saves[-1].num_bytes
    if limit is not None and len(saves) >= limit:
        return Growth("steady", why=f"keeps {limit}")
    at_most = math.inf if limit is None else float((limit - len(saves)) * size)
    return Growth("growing", size / pause * 3600, at_most, "keeps all" if limit is None else f"until it has {limit}")


def hours_left(growths: Sequence[Growth], free_bytes: int) -> float | State:
    """Hours until the disk is full; steady, idle or unknown if it does not fill up or the rate is not known.

    >>> hours_left([Growth("growing", bytes_per_hour=50.0), Growth("steady")], 200)
    4.0
    >>> hours_left([Growth("growing", bytes_per_hour=50.0, at_most=150.0)], 200)
    'steady'
    """
    rate = sum(item.bytes_per_hour for item in growths if item.state == "growing")
    rest = sum(item.at_most for item in growths if item.state == "growing")
    if rate and rest > free_bytes:
        return free_bytes / rate
    if any(item.state == "unknown" for item in growths):
        return "unknown"
    return "steady" if any(item.state in ("steady", "growing") for item in growths) else "idle"
