"""Times as tables have them: seconds, milliseconds, ISO dates, or day and month in either order.

A column has one format; a value in another one is not guessed. Where nothing says whether 03/04 is in March or in
April, nothing is guessed either: an order of events that is wrong is seen nowhere.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import polars as pl

from llamarec.command import typed
from llamarec.data.calendar_dates import read_dates
from llamarec.data.time_columns import AS_ISO, MICROSECONDS, Times, in_parts, of_microseconds, parts_of
from llamarec.errors import DataError
from llamarec.vocabulary import TIMESTAMP

# Smallest number of each unit: 1e8 as seconds is the year 1973, 1e11 as seconds 5138, as milliseconds 1973.
_UNITS: Final = (
    *((1e17, 10**9, "nanoseconds"), (1e14, 10**6, "microseconds"), (1e11, 10**3, "milliseconds")),
    (1e8, 1, "seconds"),
)
_SINCE_1970: Final = _UNITS[-1][0]
# From this share of such numbers on, the others are no order numbers but stand for "unknown".
_SOME: Final = 0.01
# What is outside stands for "unknown": 0, -1, the year 9999.
_DAY: Final = 86_400
_PLAUSIBLE: Final = (365 * _DAY, (130 * 365 + 32) * _DAY)
"""Seconds of 1971-01-01 and 2100-01-01."""
# Ten years, in seconds.
_NEAR: Final = 10 * 365 * _DAY
_LARGEST_OFFSET: Final = 14 * 3600
"""Of a time zone, in seconds: the start of 1970 as a clock shows it somewhere."""
_DIGITS: Final = {14: "%Y%m%d%H%M%S", 12: "%Y%m%d%H%M", 8: "%Y%m%d"}
"""Calendar forms of digits alone, by their number."""
# Days of a spreadsheet: 1970 is 25,569, 2100 is 73,051.
_SERIALS: Final = (25_569, 73_051)
# Calendar forms that begin with the day or the month, told from order numbers by what dates they would be.
_DIGITS_YEAR_LAST: Final = ("%d%m%Y", "%m%d%Y")
_YEARS_LAST: Final = range(1990, 2051)
_ONLY_DIGITS: Final = re.compile(r"(?:%[YmdHMSyj])+")
_WIDTHS: Final = {"Y": 4, "j": 3}
"""Digits of the codes of strptime, where they are not two."""
ORDER_NUMBERS: Final = "order numbers"
FILE_ORDER: Final = "the order of the rows"


def read_times(text: pl.Series, form: str, where: str) -> Times:
    """Seconds since 1970, and microseconds, which order clicks; a time without a zone is UTC.

    Args:
        text: The column's values, without nulls.
        form: Format for `strptime` (%d/%m/%Y %H:%M); empty: recognised.
        where: Path of the table, for an error.

    Raises:
        DataError: day and month cannot be told apart; names the flag that tells them apart.
    """
    if form:
        return _without_unknown(_by_form(text, form, where))

    numbers = in_parts(text, _finite)
    if 2 * numbers.null_count() > len(text):
        del numbers
        return _without_unknown(read_dates(text, where))

    times = _of_digits(text) or _of_numbers(numbers)
    return times if times.form == ORDER_NUMBERS else times._replace(seconds=_without_far_ends(times.seconds))


def check_no_dates(text: pl.Series, where: str, column: str) -> None:
    """Refuses order numbers that are dates with the year at their end, such as 31122019.

    Args:
        text: The column's values.
        where: Table and column, for an error.
        column: Its name, for the flag.

    Raises:
        DataError: every value is one, in either order of day and month; names both flags.
    """
    few = next(parts_of(text)).unique(maintain_order=True)
    digits = _digits(few)
    if few.is_empty() or not digits.str.contains(r"^\d{7,8}$").all():
        return

    padded, forms = digits.str.zfill(8), list[str]()
    for form in _DIGITS_YEAR_LAST:
        dates = padded.str.to_date(form, strict=False)
        if not dates.null_count() and dates.dt.year().is_between(_YEARS_LAST.start, _YEARS_LAST.stop - 1).all():
            forms.append(form)
    if forms:
        flags = [f'--timestamp_format "{form}"' for form in forms]
        raise DataError(
            f"{where}: its numbers are dates with the year at their end, or numbers that only order the interactions",
            found=", ".join(map(repr, few.head(3).to_list())),
            hint=[" or ".join(flags), f"if they only order: {typed(['--order_column', column])}"],
        )


def _finite(text: pl.Series) -> pl.Series:
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count():
        numbers = text.str.strip_chars().cast(pl.Float64, strict=False)
    return numbers.set(~numbers.is_finite(), None)


def _by_form(text: pl.Series, form: str, where: str) -> Times:
    if "%p" in form and "%H" in form:
        raise DataError(
            f"--timestamp_format {form}: %p (AM, PM) has no effect beside %H",
            hint=typed(["--timestamp_format", form.replace("%H", "%I")]),
        )
    found = in_parts(
        text, lambda part: pl.Series(TIMESTAMP, [_strptime(one, form) for one in part.to_list()], dtype=pl.Int64)
    )
    if len(found) and found.null_count() == len(found):
        raise DataError(
            f"--timestamp_format {form}: no time of {where} has this format",
            expected="codes of Python's strptime (%Y, %m, %d, %H, %M, %S), for example %d/%m/%Y %H:%M",
            found=repr(text[0]),
        )
    return of_microseconds(found, form, f"a time in the format {form} (--timestamp_format)")


def _strptime(text: str, form: str) -> int | None:
    text = text.strip()
    if _ONLY_DIGITS.fullmatch(form):
        # Strptime reads 1012020 as the 10th of January, but a number has lost the zero of 01012020.
        width = sum(_WIDTHS.get(code, 2) for code in form[1::2])
        text = text.zfill(width) if len(text) == width - 1 else text
        if len(text) != width:
            return None
    try:
        found = datetime.strptime(text, form)
    except ValueError:
        return None
    since = (found if found.tzinfo else found.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1)


def _of_digits(text: pl.Series) -> Times | None:
    """Dates without any mark, such as 20190531 or 20190531120000, if most values are plausible ones; else None."""
    lengths = in_parts(text, lambda part: _digits(part).str.len_chars())
    for length, form in _DIGITS.items():
        if 2 * int((lengths == length).sum()) <= len(text):
            continue

        seconds = in_parts(text, partial(_seconds_of_digits, length=length))
        if 2 * seconds.null_count() < len(text):
            words = form.replace("%", "")
            return Times(
                seconds,
                (seconds * 0).cast(pl.Int32),
                f"dates of the form {words}",
                f"a date of the form {words}, as most others",
            )
    return None


def _digits(text: pl.Series) -> pl.Series:
    stripped = text.str.strip_chars()
    return stripped.str.replace(r"\.0+$", "") if stripped.str.contains(".", literal=True).any() else stripped


def _seconds_of_digits(text: pl.Series, length: int) -> pl.Series:
    digits = _digits(text)
    # Strptime needs a mark between hour and minute.
    padded = digits.str.pad_end(14, "0").str.replace(r"^(\d{8})(\d\d)(\d\d)(\d\d)$", "$1 $2:$3:$4")
    found = padded.set(digits.str.len_chars() != length, None).str.to_datetime("%Y%m%d %H:%M:%S", strict=False)
    return _plausible(found.dt.epoch("s"))


def _of_numbers(numbers: pl.Series) -> Times:
    """Times since 1970, the unit decided for every value; days of a spreadsheet; or plain order numbers."""
    since_1970 = int((numbers.abs() >= _SINCE_1970).sum())
    if not since_1970 or since_1970 < _SOME * len(numbers):
        return _of_order_numbers(numbers)

    read = [_since_1970(part) for part in parts_of(numbers)]
    unit, whole, fractions = (pl.concat(columns) for columns in zip(*read, strict=True))
    del read
    seconds = _near_most(_plausible(whole), unit)
    del whole

    used = unit.filter(seconds.is_not_null())
    counts = {name: int((used == per).sum()) for _, per, name in reversed(_UNITS)}
    names = [name for name, count in counts.items() if count]
    form = f"{' and '.join(names) or 'seconds'} since 1970"
    if len(names) > 1:
        form += " (" + ", ".join(f"{counts[name]:,} in {name}" for name in names) + ")"
    return Times(seconds, fractions, form, f"{form}, from 1971 to 2099, as most others")


def _since_1970(numbers: pl.Series) -> tuple[pl.Series, pl.Series, pl.Series]:
    """The unit of each number, whole seconds, and microseconds within the second."""
    unit = pl.select(_unit_of(pl.lit(numbers.abs())).cast(pl.Int32)).to_series()
    whole = (numbers / unit).floor()
    rest = numbers - whole * unit
    fractions = (rest * MICROSECONDS / unit).round().clip(0, MICROSECONDS - 1)
    return unit, whole.cast(pl.Int64, strict=False), fractions.cast(pl.Int32, strict=False)


def _unit_of(size: pl.Expr) -> pl.Expr:
    """How many of a number's unit are in a second."""
    unit = pl.lit(1)
    for least, per_second, _ in reversed(_UNITS):
        unit = pl.when(size >= least).then(per_second).otherwise(unit)
    return unit


def _of_order_numbers(numbers: pl.Series) -> Times:
    """Small numbers: they order interactions, whatever they count."""
    is_serial = numbers.is_between(*_SERIALS)
    if bool(is_serial.all()) and bool((numbers % 1 != 0).any()):
        microseconds = ((numbers - _SERIALS[0]) * _DAY * MICROSECONDS).round().cast(pl.Int64)
        return of_microseconds(microseconds, "days of a spreadsheet", AS_ISO)

    # The only one below 0 stands for "unknown".
    negative = numbers.filter(numbers < 0)
    if len(negative) and bool((negative == -1).all()) and bool((numbers > 0).any()):
        numbers = numbers.set(numbers < 0, None)
    whole = numbers.floor()
    fractions = ((numbers - whole) * MICROSECONDS).round().clip(0, MICROSECONDS - 1)
    return Times(whole.cast(pl.Int64, strict=False), fractions.cast(pl.Int64, strict=False), ORDER_NUMBERS, AS_ISO)


def _plausible(seconds: pl.Series) -> pl.Series:
    return _without(seconds, ~seconds.is_between(*_PLAUSIBLE).fill_null(False))


def _without(seconds: pl.Series, which: pl.Series) -> pl.Series:
    """Null in the place of some values; the same column where there are none such."""
    return seconds.set(which, None) if which.any() else seconds


def _near_most(seconds: pl.Series, unit: pl.Series) -> pl.Series:
    """Times in another unit than most are theirs only if they lie near them: 9999-12-31 is no 1978 in milliseconds."""
    known = seconds.is_not_null()
    counts = {per: int(((unit == per) & known).sum()) for _, per, _ in reversed(_UNITS)}
    if max(counts.values()) == len(seconds) - seconds.null_count():
        return seconds

    is_usual = unit == max(counts, key=lambda per: counts[per])
    usual = seconds.filter(is_usual & known)
    first, last = int(usual.min()) - _NEAR, int(usual.max()) + _NEAR  # type: ignore[arg-type]
    return _without(seconds, ~is_usual & ~seconds.is_between(first, last).fill_null(False))


def _without_unknown(times: Times) -> Times:
    """Dates that repeat far from most others stand for "unknown": 1900-01-01, 9999-12-31; so does the start of 1970."""
    seconds = times.seconds
    median = seconds.median()
    if median is None or not _PLAUSIBLE[0] <= float(median) <= _PLAUSIBLE[1]:  # type: ignore[arg-type]
        return times

    outside = ~seconds.is_between(*_PLAUSIBLE).fill_null(True)
    is_start = seconds.is_between(-_LARGEST_OFFSET, _LARGEST_OFFSET).fill_null(False)
    unknown = outside & (seconds.is_duplicated() | is_start) if outside.any() else outside
    return times._replace(seconds=_without_far_ends(_without(seconds, unknown)))


def _without_far_ends(seconds: pl.Series) -> pl.Series:
    """Times without a first or last one that repeats years away from all others: 2099-12-31, 2038-01-19."""
    for end in (seconds.min(), seconds.max()):
        if end is None:
            continue
        others = seconds.filter(seconds != end)
        is_end = seconds == end
        if others.is_empty() or int(is_end.sum()) <= 1:
            continue
        nearest = others.max() if others.max() < end else others.min()  # type: ignore[operator]
        if abs(int(end) - int(nearest)) > _NEAR:  # type: ignore[arg-type]
            seconds = _without(seconds, is_end.fill_null(False))
    return seconds
