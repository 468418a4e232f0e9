"""Times and sums in a report."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime


def time_text(time: datetime | None) -> str:
    """A time to the minute; `?` if it is unknown."""
    return f"{time:%Y-%m-%d %H:%M}" if time is not None else "?"


def total(values: Iterable[float | None]) -> float | None:
    """The sum of the known values; None if none is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
