"""Times that were read without an error and yet tell no order, or not that of the interactions."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl

from llamarec.command import typed
from llamarec.data.source import CLOCK, FRACTION, ORDER
from llamarec.data.tables.rows import Table
from llamarec.data.times import FILE_ORDER, ORDER_NUMBERS
from llamarec.errors import DataError
from llamarec.vocabulary import ITEM, TIMESTAMP, USER

_DAY: Final = 86_400
_YEAR: Final = 365 * _DAY
_FAR: Final = 10
"""Years."""
_HOUR: Final = re.compile(r"(hour|hourmin|hourminute|hhmm|hr|clock|timeofday|ordertime|eventhour|orderhour)s?")
# A few rows tell of most tables that nothing is odd.
_FEW_ROWS: Final = 100_000
_DATES_OF_KEYS: Final = {USER: "a signup", ITEM: "a release"}
"""What happens once to a user, and to an item."""


def check_not_all_equal(rows: pl.DataFrame, text: pl.Series, table: Table) -> None:
    """Refuses a table whose rows all have the same time: an export's date, 0, 9999-12-31.

    Args:
        rows: USER, ITEM and TIMESTAMP; FRACTION and ORDER where the table has them.
        text: The times as the table has them.
        table: That they come from.

    Raises:
        DataError: some user took several items, and nothing tells their order.
    """
    decides = [rows[name] for name in (TIMESTAMP, FRACTION, ORDER) if name in rows.columns]
    if any(values.min() != values.max() for values in decides):
        return

    known = rows[TIMESTAMP].is_not_null()
    # Copies of one interaction need no order.
    if not rows.filter(known).select(USER, ITEM).unique()[USER].is_duplicated().any():
        return

    column, hours = table.columns[TIMESTAMP], _flag_of_hours(table)
    raise DataError(
        f"{table.where}, column {column!r}: all rows have the same time",
        expected="times that tell in which order a user took the items",
        found=f"{int(known.sum()):,} times {text.filter(known)[0]!r}",
        hint=[
            *([f"another column has the time of day: {hours}"] if hours else []),
            "another column has the times: --timestamp_column NAME",
            "the order of the rows counts: --no_timestamp",
        ],
    )


def far_end(rows: pl.DataFrame, form: str) -> str:
    """Said where the first or the last time lies ten years from all others, as one that stands for "unknown" does.

    Args:
        rows: With TIMESTAMP.
        form: Of the times; order numbers are no years.
    """
    seconds = rows[TIMESTAMP]
    if form in (ORDER_NUMBERS, FILE_ORDER) or seconds.is_empty():
        return ""
    for which, end in (("first", seconds.min()), ("last", seconds.max())):
        others = seconds.filter(seconds != end)
        nearest = others.min() if which == "first" else others.max()
        if end is None or nearest is None:
            continue
        years = abs(int(end) - int(nearest)) // _YEAR  # type: ignore[arg-type]  # of whole numbers
        if years >= _FAR:
            day = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(end))  # type: ignore[arg-type]
            return (
                f"WARNING: the {which} time, {day:%Y-%m-%d}, lies {years:,} years from all others: "
                'if it stands for "unknown", remove its row'
            )
    return ""


def warning_of_zones(num_zoneless: int, num_rows: int) -> str:
    """Said where some times name a time zone and others do not; empty otherwise.

    Args:
        num_zoneless: How many name none, beside others that do.
        num_rows: How many times there are.
    """
    if not num_zoneless:
        return ""
    return (
        f"WARNING: {num_zoneless:,} of {num_rows:,} times name no time zone, unlike the others, and count as UTC: "
        "if they are local times, add their zone to them (2020-11-01T06:30+02:00)"
    )


def dates_of_keys(rows: pl.DataFrame, table: Table) -> str:
    """Said where all rows of a user have one time, or all rows of an item; empty otherwise.

    Args:
        rows: USER, ITEM and TIMESTAMP; FRACTION and ORDER where the table has them.
        table: That they come from; its time column was recognised.
    """
    if TIMESTAMP not in table.columns:
        return ""
    for key, event in _DATES_OF_KEYS.items():
        # A column that orders equal times orders each user's.
        if (key == USER and ORDER in rows.columns) or not _has_one_time_each(rows, key):
            continue
        column = table.columns[TIMESTAMP]
        return (
            f"WARNING: the times of {column!r} are the same in all rows of the same {key}, as the date of {event} is: "
            f"--timestamp_column NAME for the time of the interaction, {typed(['--timestamp_column', column])} if this "
            "is it, or --no_timestamp if the order of the rows counts"
        )
    return ""


def _has_one_time_each(rows: pl.DataFrame, key: str) -> bool:
    """Whether some keys have several rows, and no key has several times."""
    if not _differ_at_most_between(rows.head(_FEW_ROWS), key):
        return False
    return bool(rows[key].is_duplicated().any()) and _differ_at_most_between(rows, key)


def _differ_at_most_between(rows: pl.DataFrame, key: str) -> bool:
    times = [pl.col(name) for name in (TIMESTAMP, FRACTION) if name in rows.columns]
    is_one = pl.all_horizontal(time.min() == time.max() for time in times)
    return bool(rows.group_by(key).agg(is_one.alias("is one"))["is one"].all())


def days_beside_hours(rows: pl.DataFrame, table: Table) -> str:
    """Said where times are days alone, and another column seems to have the time of day; empty otherwise.

    Args:
        rows: With TIMESTAMP, and FRACTION if one is not 0.
        table: That they come from.
    """
    flag = _flag_of_hours(table)
    if not flag or ORDER in table.columns or FRACTION in rows.columns or (rows[TIMESTAMP] % _DAY != 0).any():
        return ""
    return f"WARNING: times are days alone, and the table has a column {_hours(table)!r}: {flag}"


def _flag_of_hours(table: Table) -> str:
    """What takes the time of day from a column of its own; empty where none seems to have it, or one is taken."""
    hours = _hours(table)
    if not hours or CLOCK in table.columns or TIMESTAMP not in table.columns:
        return ""
    return typed(["--timestamp_column", f"{table.columns[TIMESTAMP]},{hours}"])


def _hours(table: Table) -> str:
    names = (name for name in table.parts[0].names if _HOUR.fullmatch(re.sub(r"[\W_]+", "", name.lower())))
    return next(names, "")


def newest_first(rows: pl.DataFrame) -> str:
    """Said where the rows run from the newest to the oldest and some times are equal; empty otherwise.

    Args:
        rows: USER and TIMESTAMP in the order of the file, and ORDER where a column decides among equal times.
    """
    if ORDER in rows.columns or not (_run_backwards(rows.head(_FEW_ROWS)) and _run_backwards(rows)):
        return ""
    times = [name for name in (USER, TIMESTAMP, FRACTION) if name in rows.columns]
    if not rows.select(times).is_duplicated().any():
        return ""
    return (
        "WARNING: the rows run from the newest to the oldest, and equal times keep that order: turn the file around, "
        "or name a column that decides: --order_column NAME"
    )


def _run_backwards(rows: pl.DataFrame) -> bool:
    """Whether times only fall, from row to row or from row to row of one user."""
    steps = rows[TIMESTAMP].diff().slice(1)
    own = steps.filter(rows[USER].slice(1) == rows[USER].head(len(steps)))
    return any(bool((some <= 0).all()) and bool((some < 0).any()) for some in (steps, own))
