"""Times as people write them into tables: seconds, milliseconds, ISO dates, or day and month in either order.

What a column is, all of it must be; of a value that is something else nothing is guessed. Where nothing says whether
03/04 is in March or in April, nothing is guessed either: an order of events that is wrong is seen nowhere.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import polars as pl

from llamarec.errors import DataError
from llamarec.vocabulary import TIMESTAMP

_MILLISECONDS_FROM: Final = 10**11  # as seconds this is the year 5138, as milliseconds 1973
_AS_ISO: Final = (
    "seconds or milliseconds since 1970, an ISO date such as 2019-05-31 or 2019-05-31T12:00:00, or what "
    '--timestamp_format says ("%d/%m/%y %H:%M")'
)
_DATE: Final = r"^\s*(?<first>\d{1,4})(?<mark>[-/.])(?<second>\d{1,2})[-/.](?<third>\d{1,4})"
_CLOCK: Final = (
    r"(?:[T ]+(?<hour>\d{1,2}):(?<minute>\d{2})(?::(?<seconds>\d{2})(?:[.,]\d+)?)?(?:\s*(?<half>[AaPp])[Mm])?)?"
)
_ZONE: Final = r"\s*(?<zone>Z|[+-]\d{2}:?\d{2})?\s*$"
DAY_FIRST: Final = ("%d/%m/%Y", "day/month/year")
MONTH_FIRST: Final = ("%m/%d/%Y", "month/day/year")


class Times(NamedTuple):
    """seconds: since 1970, null where a value is no time. form: how they were read, in words. expected: for errors."""

    seconds: pl.Series
    form: str
    expected: str


def read_times(text: pl.Series, form: str, where: str) -> Times:
    """Seconds since 1970 (UTC, where a time says no zone).

    Args:
        text: As it stands in the table, no nulls.
        form: As `strptime` has it (%d/%m/%Y %H:%M), or empty: recognised.
        where: The table's path, for an error.

    Raises:
        DataError: day and month cannot be told apart; names the flag that says which is which.
    """
    if form:
        return _by_form(text, form, where)
    numbers = text.cast(pl.Float64, strict=False)
    numbers = numbers.set(~numbers.is_finite(), None)
    return _of_numbers(numbers) if 2 * numbers.null_count() <= len(text) else _of_dates(text, where)


def _by_form(text: pl.Series, form: str, where: str) -> Times:
    has_clock = any(part in form for part in ("%H", "%I", "%T", "%R", "%M"))
    try:
        found = text.str.to_datetime(form, strict=False) if has_clock else text.str.to_date(form, strict=False)
        seconds = found.cast(pl.Datetime("us", "UTC") if "%z" in form else pl.Datetime("us")).dt.epoch("s")
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"--timestamp_format {form}: not a format of times",
            expected="%Y, %m, %d, %H, %M, %S as strptime has them, for example %d/%m/%Y %H:%M",
            found=f"{str(error).partition(chr(10))[0]} ({where}: {text[0]!r})",
        ) from error
    return Times(seconds, form, f"a time in the form {form} (--timestamp_format)")


def _of_numbers(numbers: pl.Series) -> Times:
    median = numbers.median() if len(numbers) else 0
    milliseconds = abs(float(median or 0)) >= _MILLISECONDS_FROM  # type: ignore[arg-type]
    seconds = (numbers / 1000 if milliseconds else numbers).floor().cast(pl.Int64)
    return Times(seconds, f"{'milliseconds' if milliseconds else 'seconds'} since 1970", _AS_ISO)


def _of_dates(text: pl.Series, where: str) -> Times:
    parts = text.str.extract_groups(_DATE + _CLOCK + _ZONE).struct.unnest()
    is_iso = parts["first"].str.len_chars() == 4
    if 2 * int(is_iso.sum()) >= len(text):
        return Times(_seconds(parts, "first", "second", "third"), "ISO dates", _AS_ISO)
    if parts["first"].null_count() == len(text):
        return Times(pl.Series(TIMESTAMP, [None] * len(text), dtype=pl.Int64), "no times", _AS_ISO)
    first, second = (parts[name].cast(pl.Int64) for name in ("first", "second"))
    says_day, says_month = int((first > 12).sum()), int((second > 12).sum())
    # In dates with points the day is always first.
    has_points = bool((parts["mark"] == ".").any())
    if not (says_day or says_month or has_points):
        _refuse_to_guess(text, where)
    form, words = DAY_FIRST if says_day > says_month or (has_points and not says_month) else MONTH_FIRST
    day, month = ("first", "second") if form == DAY_FIRST[0] else ("second", "first")
    return Times(_seconds(parts, "third", month, day), words, f"a time in the form {words}, as most of the others are")


def _refuse_to_guess(text: pl.Series, where: str) -> None:
    clock = " %H:%M:%S" if text.str.count_matches(":").max() == 2 else " %H:%M"
    clock = clock if text.str.contains(":").any() else ""
    mark = text.str.extract(r"\d([-/.])", 1).drop_nulls()[0]
    forms = [form[0].replace("/", mark) + clock for form in (DAY_FIRST, MONTH_FIRST)]
    raise DataError(
        f"{where}: nothing says whether the day or the month comes first",
        found=f"times such as {text[0]!r}; no number above 12 in either place",
        hint=f'--timestamp_format "{forms[0]}" (day first) or --timestamp_format "{forms[1]}" (month first)',
    )


def _seconds(parts: pl.DataFrame, year: str, month: str, day: str) -> pl.Series:
    """Of what was taken apart; null where there is no such day."""
    clock = pl.concat_str([pl.col(name).fill_null("0") for name in ("hour", "minute", "seconds")], separator=":")
    whole = pl.concat_str([pl.col(name) for name in (year, month, day)], separator="-")
    zone = pl.col("zone").str.replace("Z", "+0000").str.replace(":", "")
    away = zone.str.slice(1, 2).cast(pl.Int64) * 3600 + zone.str.slice(3, 2).cast(pl.Int64) * 60
    offset = pl.when(zone.str.starts_with("-")).then(-away).otherwise(away).fill_null(0)
    found = pl.concat_str([whole, clock], separator=" ").str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)
    hour, half = pl.col("hour").cast(pl.Int64), pl.col("half").str.to_lowercase()
    # 12 AM is midnight, 12 PM noon.
    morning, noon = pl.when(hour == 12).then(-12).otherwise(0), pl.when(hour == 12).then(0).otherwise(12)
    shift = pl.when(half == "a").then(morning).when(half == "p").then(noon).otherwise(0)
    found = found + pl.duration(hours=shift)
    # A year of two digits is no year.
    found = pl.when(pl.col(year).str.len_chars() == 4).then(found)
    return parts.select((found.dt.epoch("s") - offset).alias(TIMESTAMP))[TIMESTAMP]
