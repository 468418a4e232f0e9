"""A column in a form of times that is not recognised: which form it seems to be, and the flag that says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import product
from typing import Final

import polars as pl

from llamarec.errors import DataError

_CLOCK_ALONE: Final = r"^\s*\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*([AaPp]\.?[Mm]\.?)?\s*$"
_DATES: Final = (
    *("%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y", "%d/%b/%Y", "%d. %B %Y"),
    *("%m %d, %Y", "%Y %b %d", "%Y-%b-%d", "%a %b %d %Y", "%a, %d %b %Y", "%A, %B %d, %Y", "%Y %m %d", "%d %m %Y"),
    *("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y-%m-%d"),
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d", "%y/%m/%d", "%Y年%m月%d日", "%Y-%m"),
    *("%b-%y", "%b %Y", "%B %Y", "%Y/%m", "%m/%Y"),
)
_CLOCKS: Final = (
    *("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p", ", %H:%M:%S", ", %H:%M", ", %I:%M %p", ":%H:%M:%S"),
    *(", %I:%M:%S %p", " %H", " %I.%M.%S.%f %p"),
    *("T%H:%M:%S", " %H.%M.%S", " %H.%M", " %H:%M:%S.%f", " %H:%M:%S %z", ":%H:%M:%S %z", " %H:%M:%S %Z"),
)
# Those of Twitter and of Unix' date, of ISO without marks, and a clock before its date.
_OTHERS: Final = (
    *("%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S %Z %Y", "%Y%m%dT%H%M%S", "%Y%m%dT%H%M%SZ"),
    *("%Y-%m-%d-%H-%M-%S", "%Y-%m-%d %H-%M-%S", "%Y-%m-%d_%H:%M:%S", "%Y-%m-%d_%H-%M-%S", "%Y%m%d %H:%M:%S"),
    *("%H:%M %d/%m/%Y", "%H:%M %d.%m.%Y", "%H:%M:%S %d/%m/%Y", "%d%b%Y:%H:%M:%S", "%d%b%Y", "%G-W%V-%u", "%Y%m%d%H"),
)
FORMS: Final = (*(date + clock for date, clock in product(_DATES, _CLOCKS)), *_OTHERS)
_NUM_TRIED: Final = 200
_EXPONENT: Final = re.compile(r"\d(?:[.,](\d+))?E\+?(\d+)")
_NUM_LOOKED_AT: Final = 10_000
_DIGITS_OF_SECONDS: Final = 8
"""Beyond the first: of the seconds of 1973."""
_MOST_SHOWN: Final = 3
# Fewer values than these that repeat stand for "unknown", and the rest are times.
_FEW: Final = 10


def check_is_known(text: pl.Series, unknown: pl.Series, expected: str, where: str) -> None:
    """Refuses a column of which most values, of many kinds, are no times.

    Args:
        text: Its values.
        unknown: Those that are no times.
        expected: What would have been right.
        where: Table and column.

    Raises:
        DataError: names the form where one fits, and the flag.
    """
    is_most = 2 * len(unknown) > len(text) and unknown.n_unique() > _FEW
    if not len(unknown) or not (len(unknown) == len(text) or is_most):
        return

    shown = ", ".join(repr(one[:60]) for one in unknown.unique(maintain_order=True).head(_MOST_SHOWN).to_list())
    if unknown.str.contains(_CLOCK_ALONE).all():
        raise DataError(
            f"{where}: times of day without their dates",
            expected=expected,
            found=shown,
            hint="--timestamp_column DATE,CLOCK with the names of both columns, or --no_timestamp",
        )

    tried = unknown.unique(maintain_order=True).head(_NUM_TRIED).str.strip_chars().to_list()
    forms = [form for form in FORMS if _all_fit(tried, form)]
    flags = [f'--timestamp_format "{form}"' for form in forms[:_MOST_SHOWN]]
    raise DataError(
        f"{where}: its values are not in a known form of times",
        expected=expected,
        found=shown,
        hint=" or ".join(flags) or '--timestamp_format "..." in the codes of strptime, or --timestamp_column NAME',
    )


def check_not_rounded(text: pl.Series, where: str) -> None:
    """Refuses times such as 1.61E+09, as which a spreadsheet writes those of several months.

    Raises:
        DataError: all have too few digits for a second.
    """
    found = [_EXPONENT.fullmatch(one.strip()) for one in text.head(_NUM_LOOKED_AT).to_list()]
    if not found or not all(found):
        return

    digits = max(len(one[1] or "") for one in found if one)
    exponent = int(found[0][2]) if found[0] else 0
    # Of seconds, milliseconds, microseconds or nanoseconds.
    needed = _DIGITS_OF_SECONDS + (exponent - _DIGITS_OF_SECONDS) % 3
    if exponent >= _DIGITS_OF_SECONDS and digits < needed:
        raise DataError(
            f"{where}: numbers that a spreadsheet has rounded",
            expected="times with all of their digits",
            found=", ".join(map(repr, text.unique(maintain_order=True).head(_MOST_SHOWN).to_list())),
            hint="export the table anew, with this column as a number without decimals",
        )


def _all_fit(texts: Sequence[str], form: str) -> bool:
    try:
        for text in texts:
            datetime.strptime(text, form)
    except ValueError:
        return False
    return True
