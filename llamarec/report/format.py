"""Times and durations as a report writes them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime


def time_text(time: datetime | None) -> str:
    """To the minute; `?` where it is not known."""
    return f"{time:%Y-%m-%d %H:%M}" if time is not None else "?"


def total(values: Iterable[float | None]) -> float | None:
    """Of the known ones; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def duration(seconds: float | None) -> str:
    """In the two greatest units.

    >>> [duration(value) for value in (None, 0, 59.4, 61, 3700, 90000)]
    ['?', '0 s', '59 s', '1 min 1 s', '1 h 1 min', '25 h 0 min']
    """
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
