"""Records of public files: a line each, as JSON or as a Python literal, and times as their owners write them."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl

from llamarec.data.containers import open_bytes
from llamarec.data.lines import LineFormat, Lines, Row
from llamarec.errors import DataError
from llamarec.vocabulary import TITLE

_LONGEST_HEADER: Final = 1_000


def records_format(fields: Mapping[str, Sequence[str]], required: tuple[str, ...]) -> LineFormat:
    """Format of one record a line, in JSON or as a Python literal, which is parsed and never evaluated.

    Args:
        fields: By column, the names of the field; the first with a value counts.
        required: Columns that every record needs.
    """
    return LineFormat(dict.fromkeys(fields, pl.String), required, partial(_parse, fields))


def _parse(fields: Mapping[str, Sequence[str]], lines: Lines) -> Row | None:
    line = next(lines)
    if not line.strip():
        return None

    try:
        record = json.loads(line)
    except ValueError:
        record = _literal(line)
    if not isinstance(record, dict):
        raise ValueError(f"expected a dictionary, found a {type(record).__name__}")
    return {column: _value(record, names, column) for column, names in fields.items()}


def _literal(line: str) -> object:
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            return ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError("neither JSON nor a Python literal") from None


def _value(record: Mapping[str, object], names: Sequence[str], column: str) -> str | None:
    found = next((record[name] for name in names if record.get(name)), None)
    if found is None or isinstance(found, str):
        return found
    if column == TITLE:
        return None
    raise ValueError(f"{names[0]} is no text: {found!r}")


def check_header(path: Path, names: Sequence[str], separator: str = ",") -> int:
    """Checks the first line of a file, and returns how many lines it takes.

    Args:
        path: Of the file.
        names: What its owner writes there.
        separator: Between them.

    Raises:
        DataError: the file begins with something else, which would be lost with the header.
    """
    with open_bytes(path) as file:
        line = file.readline(_LONGEST_HEADER).decode(errors="replace").strip()
    if [name.strip('"') for name in line.split(separator)] != list(names):
        raise DataError(
            f"{path}: it does not begin with its header", expected=separator.join(names), found=repr(line[:120])
        )
    return 1


def seconds_of(rows: pl.DataFrame, column: str, form: str, path: Path) -> pl.Series:
    """Seconds since 1970 of a column of dates.

    Args:
        rows: Rows with the column.
        column: Its name.
        form: Format of the dates in the codes of strptime.
        path: Of the file, for an error.

    Raises:
        DataError: a date has another format.
    """
    dates = rows[column].str.to_datetime(form, strict=False)
    if dates.has_nulls():
        raise DataError(
            f"{path}: a {column} is no time",
            expected=f"the format {form}",
            found=repr(rows[column].filter(dates.is_null())[0]),
        )
    return dates.dt.epoch("s")
