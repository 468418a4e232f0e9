"""Dates with marks between their numbers: the year first, or day and month in the order that the dates show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from llamarec.data.time_columns import AS_ISO, MICROSECONDS, Times, in_parts, of_microseconds, parts_of
from llamarec.errors import DataError
from llamarec.vocabulary import TIMESTAMP

_DATE: Final = r"^\s*(?<first>\d{1,4})(?<mark>[-/.])(?<second>\d{1,2})[-/.](?<third>\d{1,4})"
_CLOCK: Final = (
    r"(?:[T ]+(?<hour>\d{1,2}):(?<minute>\d{2})(?::(?<seconds>\d{2})(?:[.,](?<fraction>\d+))?)?"
    r"(?:\s*(?<half>[AaPp])[Mm])?)?"
)
_ZONE: Final = r"\s*(?<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?\s*$"
_MONTHS: Final = 12
_CLEARLY: Final = 10  # one order must have so many times the evidence of the other; a few values are typos
DAY_FIRST: Final = ("%d/%m/%Y", "day/month/year")
MONTH_FIRST: Final = ("%m/%d/%Y", "month/day/year")


def read_dates(text: pl.Series, where: str) -> Times:
    """Times of dates with or without a time of day and a zone; null where a value is none.

    Args:
        text: The column's values, without nulls.
        where: Path of the table, for an error.

    Raises:
        DataError: day and month cannot be told apart; names the flag that tells them apart.
    """
    counts, iso = _DateCounts(), list[pl.Series]()
    for part in parts_of(text):
        fields = _fields(part)
        counts.add(fields)
        iso.append(_microseconds(fields, "first", "second", "third"))

    if 2 * counts.iso >= len(text):
        return of_microseconds(pl.concat(iso), "ISO dates", AS_ISO)._replace(num_zoneless=counts.num_zoneless)
    del iso
    if not counts.year_last:
        none = pl.Series(TIMESTAMP, [None], dtype=pl.Int64).extend_constant(None, len(text) - 1)
        return Times(none, none, "no times", AS_ISO)

    form, words = counts.order(text, where)
    day, month = ("first", "second") if form == DAY_FIRST[0] else ("second", "first")
    since = in_parts(text, lambda part: _microseconds(_fields(part), "third", month, day))
    times = of_microseconds(since, words, f"a time in the format {words}, as most others")
    return times._replace(num_zoneless=counts.num_zoneless)


def _fields(text: pl.Series) -> pl.DataFrame:
    return text.str.extract_groups(_DATE + _CLOCK + _ZONE).struct.unnest()


@dataclass
class _DateCounts:
    """What the dates of a column look like.

    Attributes:
        iso: How many have the year first.
        year_last: How many have it last; of these:
        says_day, says_month: How many have a number above 12 in the first and in the second position.
        points: How many have points.
        with_zone, without_zone: How many of all dates name a time zone, and how many do not.
    """

    iso: int = 0
    year_last: int = 0
    says_day: int = 0
    says_month: int = 0
    points: int = 0
    with_zone: int = 0
    without_zone: int = 0

    @property
    def num_zoneless(self) -> int:
        """How many name no time zone, beside others that do."""
        return self.without_zone if self.with_zone else 0

    def add(self, fields: pl.DataFrame) -> None:
        """Counts further dates."""
        zones = fields.filter(pl.col("first").is_not_null())["zone"]
        self.with_zone += zones.count()
        self.without_zone += zones.null_count()
        self.iso += int((fields["first"].str.len_chars() == 4).sum())
        rows = fields.filter((pl.col("third").str.len_chars() == 4) & (pl.col("first").str.len_chars() <= 2))
        self.year_last += rows.height
        self.says_day += rows.filter(pl.col("first").cast(pl.Int64) > _MONTHS).height
        self.says_month += rows.filter(pl.col("second").cast(pl.Int64) > _MONTHS).height
        self.points += rows.filter(pl.col("mark") == ".").height

    def order(self, text: pl.Series, where: str) -> tuple[str, str]:
        """Whether the day or the month comes first, decided by the dates with a number above 12."""
        # Dates with points put the day first everywhere.
        if 2 * self.points > self.year_last and not self.says_month:
            return DAY_FIRST

        most, least = max(self.says_day, self.says_month), min(self.says_day, self.says_month)
        if not most or most < _CLEARLY * least:
            raise _ambiguous(text, where)
        return DAY_FIRST if self.says_day > self.says_month else MONTH_FIRST


def _ambiguous(text: pl.Series, where: str) -> DataError:
    clock = " %H:%M:%S" if text.str.count_matches(":").max() == 2 else " %H:%M"
    clock = clock.replace("%H", "%I") + " %p" if text.str.contains(r"(?i)[ap]m\s*$").any() else clock
    clock = clock if text.str.contains(":").any() else ""
    mark = text.str.extract(r"\d([-/.])", 1).drop_nulls()[0]
    forms = [form[0].replace("/", mark) + clock for form in (DAY_FIRST, MONTH_FIRST)]
    return DataError(
        f"{where}: nothing says whether the day or the month comes first",
        found=f"times such as {text[0]!r}; no number above 12 in either position, or some in both",
        hint=f'--timestamp_format "{forms[0]}" (day first) or --timestamp_format "{forms[1]}" (month first)',
    )


def _microseconds(parts: pl.DataFrame, year: str, month: str, day: str) -> pl.Series:
    """Microseconds from the parts of a date, whose columns are named; null where there is no such day."""
    clock = pl.concat_str([pl.col(name).fill_null("0") for name in ("hour", "minute", "seconds")], separator=":")
    whole = pl.concat_str([pl.col(name) for name in (year, month, day)], separator="-")
    zone = pl.col("zone").str.replace("Z|UTC|GMT", "+0000").str.replace(":", "")
    minutes = zone.str.slice(3, 2).replace("", "0").cast(pl.Int64)
    away = zone.str.slice(1, 2).cast(pl.Int64) * 3600 + minutes * 60
    offset = pl.when(zone.str.starts_with("-")).then(-away).otherwise(away).fill_null(0)

    found = pl.concat_str([whole, clock], separator=" ").str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)
    hour, half = pl.col("hour").cast(pl.Int64), pl.col("half").str.to_lowercase()

    # 12 AM is midnight, 12 PM noon.
    morning, noon = pl.when(hour == 12).then(-12).otherwise(0), pl.when(hour == 12).then(0).otherwise(12)
    shift = pl.when(half == "a").then(morning).when(half == "p").then(noon).otherwise(0)
    found = found + pl.duration(hours=shift)

    # A two-digit year is refused.
    is_hour = half.is_null() | hour.is_between(1, 12)
    found = pl.when((pl.col(year).str.len_chars() == 4) & is_hour).then(found)
    fraction = pl.col("fraction").fill_null("").str.slice(0, 6).str.pad_end(6, "0").cast(pl.Int64)
    whole_seconds = found.dt.epoch("s") - offset
    return parts.select((whole_seconds * MICROSECONDS + fraction).alias(TIMESTAMP))[TIMESTAMP]
