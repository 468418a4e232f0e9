"""How fast checkpoints fill a disk: a pure function of what was saved when. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Final, Literal

State = Literal["growing", "steady", "idle", "unknown"]

# Silent for so many of its usual pauses, a run is taken to be over, or interrupted.
_PATIENCE: Final = 10


@dataclass(frozen=True)
class Save:
    """One checkpoint on the disk.

    Attributes:
        created: UTC; None where it is not known.
        num_bytes: Size.
        reason: As in the manifest.
    """

    created: datetime | None
    num_bytes: int
    reason: str = "scheduled"


@dataclass(frozen=True)
class Growth:
    """How a run's folder grows.

    Attributes:
        state: growing; steady (retention deletes as much as is written); idle (nothing is being written); unknown.
        bytes_per_hour: While it is growing.
        at_most: Bytes until retention sets in; infinite where the run keeps everything.
        why: One clause.
    """

    state: State
    bytes_per_hour: float = 0.0
    at_most: float = math.inf
    why: str = ""


def growth(saves: Sequence[Save], limit: int | None, now: datetime) -> Growth:
    """How a run's folder grows from here.

    The rate is the size of the newest save by the median pause between saves: a night's interruption does not count.

    Args:
        saves: What is there, oldest first.
        limit: How many the run keeps (`save_total_limit`); None for all.
        now: UTC.
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
    return Growth("growing", size / pause * 3600, at_most, "keeps all" if limit is None else f"until {limit} are there")


def hours_left(growths: Sequence[Growth], free_bytes: int) -> float | State:
    """Hours until the disk is full; or steady, idle or unknown.

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
