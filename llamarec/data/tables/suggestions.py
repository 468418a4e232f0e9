"""What a flag could say of a table: a guess that a person must read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from llamarec.data.config import IGNORED

VALUE: Final = re.compile(r"[-+]?\d+([.,]\d+)?([eE]\d+)?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*")
"""A number or a date, which names no column."""
_CLOCK: Final = re.compile(r"\d:\d\d")
LARGE: Final = 8
"""Digits of a number from which it may be a time."""
_SINCE: Final = 788_918_400
"""Seconds of 1995, before which no time of such tables lies; smaller numbers are keys."""


def suggested_columns(record: Sequence[str]) -> str:
    """A value for --columns with as many names as a record has fields; a guess that a person must read."""
    times = [n for n, field in enumerate(record) if _may_be_a_time(field)]
    texts = [n for n, field in enumerate(record) if " " in field.strip() and n not in times]
    names = dict.fromkeys(times[-1:], "timestamp") | dict.fromkeys(texts[:1], "title")

    rest = [n for n in range(len(record)) if n not in names]
    names |= dict(zip(rest, ("user", "item", "rating"), strict=False))
    return ",".join(names.get(n, IGNORED) for n in range(len(record)))


def _may_be_a_time(field: str) -> bool:
    text = field.strip()
    is_number_or_date = bool(VALUE.fullmatch(text))
    is_long = len(text.partition(".")[0]) > LARGE or text.count("-") > 1 or "/" in text
    is_key = text.isdigit() and len(text) == len(str(_SINCE)) and int(text) < _SINCE
    return (is_number_or_date and is_long and not is_key) or _CLOCK.search(text) is not None
