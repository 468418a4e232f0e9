"""A column of times as it is read: what comes of it, and the work part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import polars as pl

MICROSECONDS: Final = 10**6
"""In a second."""
AS_ISO: Final = (
    "seconds or milliseconds since 1970, an ISO date such as 2019-05-31 or 2019-05-31T12:00:00, or the format of "
    '--timestamp_format ("%d/%m/%y %H:%M")'
)
_ROWS_AT_ONCE: Final = 250_000
"""Values that are worked out together."""


class Times(NamedTuple):
    """Times of a column.

    seconds: since 1970; null where a value is not a time. fractions: microseconds within the second. form: the format
    in words. expected: the format for an error. num_zoneless: how many name no time zone, beside others that do.
    """

    seconds: pl.Series
    fractions: pl.Series
    form: str
    expected: str
    num_zoneless: int = 0


def of_microseconds(since: pl.Series, form: str, expected: str) -> Times:
    """Times of whole microseconds since 1970; null where a value is none."""
    return Times(since // MICROSECONDS, (since % MICROSECONDS).cast(pl.Int32), form, expected)


def in_parts(values: pl.Series, convert: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """A function of each value, worked out for a part of them at a time: what lies between takes little memory."""
    return pl.concat([convert(part) for part in parts_of(values)])


def parts_of(values: pl.Series) -> Iterator[pl.Series]:
    """Parts of a column, one after another; an empty one for an empty column."""
    for start in range(0, max(1, len(values)), _ROWS_AT_ONCE):
        yield values.slice(start, _ROWS_AT_ONCE)
