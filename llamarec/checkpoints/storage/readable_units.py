"""Sizes, durations and ages as people read them: one look in the commands, messages and reports."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import humanize

_UNITS: Final = ((365 * 86400, "y"), (86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def readable(num_bytes: float) -> str:
    """A size in the largest decimal unit that fits.

    >>> [readable(n) for n in (0, 999, 2_300, 52_428_800, 3.2e12)]
    ['0 B', '999 B', '2.3 kB', '52.4 MB', '3.2 TB']
    """
    number, unit = humanize.naturalsize(num_bytes, format="%.1f").split(" ")
    return f"{number} {'B' if unit.startswith('Byte') else unit}"


def duration(seconds: float | None) -> str:
    """A time span in its two largest units; `?` where it is unknown. Table columns have no room for humanize's words.

    >>> [duration(seconds) for seconds in (None, 0, 59.4, 61, 3700, 90000)]
    ['?', '0 s', '59 s', '1 min 1 s', '1 h 1 min', '1 d 1 h']
    """
    return "?" if seconds is None else " ".join(_parts(round(seconds))[:2])


def age(created: datetime | None, now: datetime | None = None) -> str:
    """The time since a moment in its largest unit; `-` where it is unknown, `0 s` after a clock was set back.

    >>> age(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 3, 59, tzinfo=UTC))
    '3 h'
    """
    if created is None:
        return "-"

    return _parts(int(((now or datetime.now(UTC)) - created).total_seconds()))[0]


def _parts(seconds: int) -> list[str]:
    """Every unit from the largest that fits down to seconds."""
    parts: list[str] = []
    rest = max(seconds, 0)

    for length, name in _UNITS:
        if parts or rest >= length or name == "s":
            count, rest = divmod(rest, length)
            parts.append(f"{count} {name}")
    return parts
