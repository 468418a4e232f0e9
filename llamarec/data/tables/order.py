"""The order of interactions: by their times, by a date and a clock, by a column of numbers, or that of the rows."""

from __future__ import annotations

from typing import Final, NamedTuple

import polars as pl

from llamarec.data.config import DataConfig
from llamarec.data.source import CLOCK, FRACTION, ORDER
from llamarec.data.tables.numbers import RowNumbers
from llamarec.data.tables.order_checks import check_not_all_equal, warning_of_zones
from llamarec.data.tables.time_forms import check_is_known, check_not_rounded
from llamarec.data.time_columns import MICROSECONDS, Times
from llamarec.data.times import FILE_ORDER, ORDER_NUMBERS, check_no_dates, read_times
from llamarec.errors import ConfigError, DataError
from llamarec.texts import normal
from llamarec.vocabulary import TIMESTAMP

CLOCK_FORM: Final = r"^\s*(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*(?:([AaPp])\.?[Mm]\.?)?\s*$"
_DAY: Final = 86_400
_HOURS, _SIXTY = 24, 60
_EXACT: Final = 2**53
"""From here on, not every whole number is a floating one."""
_CODES_OF_CLOCKS: Final = ("%H", "%I", "%M", "%S", "%T", "%X", "%c", "%R")


class Order(NamedTuple):
    """The rows in an order.

    rows: with TIMESTAMP, FRACTION if one is not 0, and ORDER if a column orders equal times. form: of the times.
    warning: what a person must read of them; else empty.
    """

    rows: pl.DataFrame
    form: str
    warning: str = ""


class OrderReader:
    """Reads when each interaction was, and what decides among equal times.

    Args:
        config: For the format of times, and --no_timestamp.
        numbers: Reads columns of numbers of the table, and counts rows without a valid time.
    """

    def __init__(self, config: DataConfig, numbers: RowNumbers) -> None:
        self._config, self._numbers, self._columns = config, numbers, numbers.table.columns

    def read(self, rows: pl.DataFrame) -> Order:
        """The rows with their order; null where a row has none, which is then a malformed line.

        Args:
            rows: Columns as text, by this package's names; LINE and PART.

        Raises:
            DataError: times are in no known form, or all the same.
        """
        if self._config.no_timestamp:
            return Order(rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(TIMESTAMP)), FILE_ORDER)

        if ORDER in self._columns:
            rows = rows.with_columns(self._numbers.read(rows, ORDER).alias(ORDER))
        times = self._times(rows)
        found = [times.seconds.alias(TIMESTAMP)]
        if (times.fractions != 0).any():
            found.append(times.fractions.alias(FRACTION))
        ordered = rows.with_columns(found)
        check_not_all_equal(ordered, rows[TIMESTAMP], self._numbers.table)
        return Order(ordered, times.form, warning_of_zones(times.num_zoneless, rows.height))

    def _times(self, rows: pl.DataFrame) -> Times:
        text, where = rows[TIMESTAMP], self._numbers.where(TIMESTAMP)
        form, orders_all = (
            self._config.timestamp_format,
            normal(self._columns[TIMESTAMP]) == normal(self._config.order_column),
        )
        if orders_all and (exact := _exact_order(text)):
            return exact

        if not form:
            check_not_rounded(text, where)
        if CLOCK not in self._columns:
            times = read_times(text, form, where)
            if times.form == ORDER_NUMBERS and not orders_all:
                check_no_dates(text, where, self._columns[TIMESTAMP])
        elif any(code in form for code in _CODES_OF_CLOCKS):
            text = (rows[TIMESTAMP].str.strip_chars() + " " + rows[CLOCK].str.strip_chars()).alias(TIMESTAMP)
            times = read_times(text, form, where)
        else:
            times = self._of_dates_and_clocks(rows)

        unknown = text.filter(times.seconds.is_null())
        check_is_known(text, unknown, times.expected, where)
        alike = dict(unknown.value_counts().iter_rows())
        with self._numbers.among(rows):
            for row in times.seconds.is_null().arg_true().to_list():
                num_alike = alike[text[row]]
                reason = "not a time" + (f", in {num_alike:,} rows" if num_alike > 1 else "")
                self._numbers.add(rows, row, reason, text[row], times.expected)
        return times

    def _of_dates_and_clocks(self, rows: pl.DataFrame) -> Times:
        """Times of a date and a time of day in two columns.

        Raises:
            ConfigError: they are something else, and no flag names them.
            DataError: the dates are none, or have a time of day already.
        """
        given = rows[CLOCK] if not self._config.timestamp_column else _with_minutes(rows[CLOCK])
        clocks = _microseconds(given)
        dates = read_times(rows[TIMESTAMP], self._config.timestamp_format, self._numbers.where(TIMESTAMP))
        are_days = bool(((dates.seconds % _DAY == 0) & (dates.fractions == 0)).all()) and dates.form != ORDER_NUMBERS
        if not self._config.timestamp_column and (clocks.null_count() or not are_days):
            date, clock = self._columns[TIMESTAMP], self._columns[CLOCK]
            raise ConfigError(
                f"{self._numbers.table.where}: several columns could be the timestamp",
                expected="one, or a column of dates and one of times of day (10:30:00)",
                found=[f"{date} with {rows[TIMESTAMP][0]!r}", f"{clock} with {rows[CLOCK][0]!r}"],
                hint=f"--timestamp_column {date} or --timestamp_column {clock} or --timestamp_column {date},{clock}",
            )
        if not are_days:
            raise DataError(
                f"{self._numbers.where(TIMESTAMP)}: no dates, or dates with a time of day of their own",
                expected=f"dates alone beside the times of day in {self._columns[CLOCK]!r}",
                found=f"{rows[TIMESTAMP][0]!r}, read as {dates.form}",
                hint=f"--timestamp_column {self._columns[TIMESTAMP]}",
            )

        check_is_known(rows[CLOCK], rows[CLOCK].filter(clocks.is_null()), "a time of day", self._numbers.where(CLOCK))
        with self._numbers.among(rows):
            for row in (clocks.is_null() & dates.seconds.is_not_null()).arg_true().to_list():
                self._numbers.add(
                    rows, row, "not a time of day", rows[CLOCK][row], "a time of day such as 10:30 or 10:30:00"
                )
        seconds = dates.seconds + clocks // MICROSECONDS
        return Times(seconds, clocks % MICROSECONDS, f"{dates.form} with times of day", dates.expected)


def _exact_order(text: pl.Series) -> Times | None:
    """Whole numbers beyond those that a floating one keeps, such as keys that grow with time; else None."""
    numbers = text.str.strip_chars().cast(pl.Int64, strict=False)
    if numbers.null_count() or not (numbers.abs() >= _EXACT).any():
        return None
    return Times(numbers, (numbers * 0).cast(pl.Int32), ORDER_NUMBERS, "a whole number")


def _with_minutes(clocks: pl.Series) -> pl.Series:
    """Hours alone, and numbers such as 930, as clocks, where all values are such."""
    digits = clocks.str.strip_chars().str.replace(r"\.0+$", "")
    if not len(digits) or not digits.str.contains(r"^\d{1,4}$").all():
        return clocks
    if (digits.cast(pl.Int64) < _HOURS).all():
        return digits + ":00"
    return digits.str.zfill(4).str.replace(r"^(\d\d)", "$1:")


def _microseconds(clocks: pl.Series) -> pl.Series:
    """Microseconds since midnight; null where a text is no time of day."""
    parts = clocks.str.extract_groups(CLOCK_FORM).struct.unnest()
    parts.columns = ["hour", "minute", "second", "fraction", "half"]
    hour, minute, second = (pl.col(name).cast(pl.Int64).fill_null(0) for name in ("hour", "minute", "second"))
    fraction = pl.col("fraction").fill_null("").str.slice(0, 6).str.pad_end(6, "0").cast(pl.Int64)
    half = pl.col("half").str.to_lowercase()

    # 12 AM is midnight, 12 PM noon.
    of_half = hour % 12 + pl.when(half == "p").then(12).otherwise(0)
    found = pl.when(half.is_null()).then(hour).otherwise(of_half)
    is_clock = pl.col("hour").is_not_null() & (hour < _HOURS) & (minute < _SIXTY) & (second < _SIXTY)
    is_clock &= half.is_null() | hour.is_between(1, 12)
    since_midnight = ((found * _SIXTY + minute) * _SIXTY + second) * MICROSECONDS + fraction
    return parts.select(pl.when(is_clock).then(since_midnight).alias(CLOCK))[CLOCK]
