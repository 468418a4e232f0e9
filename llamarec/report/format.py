"""Times and sums as a report writes them."""

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
