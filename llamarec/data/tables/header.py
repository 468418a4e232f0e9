"""The columns that a text table names: its header, or the fields of its first records."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from llamarec.data.config import IGNORED
from llamarec.data.tables.columns import is_known_name
from llamarec.data.tables.separators import records, separator_of
from llamarec.data.tables.suggestions import suggested_columns
from llamarec.errors import ConfigError, DataError

# A JSON record may lack a field that others have.
_RECORDS: Final = 1_000
_MAX_LINES: Final = 100
# The first line of a CSV that Excel wrote for another country's Excel.
_EXCEL: Final = "sep="
# RecBole's atomic files (.inter, .item) name a column's type after it.
_ATOMIC: Final = re.compile(r":(?:token|float)(_seq)?$")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the first lines of a text table say.

    Attributes:
        columns: Names in their order, "" where there is none.
        separator: Between fields.
        num_lines: How many lines come before the first record.
        listed: Columns whose values are lists, separated by blanks.
    """

    columns: tuple[str, ...]
    separator: str
    num_lines: int
    listed: frozenset[str] = frozenset()


def read_header(lines: Sequence[str], where: str, *, separator: str = "", flag: str = "--separator") -> Header:
    """The header of a CSV or TSV; blank lines before it are passed over.

    Args:
        lines: The first lines of the file.
        where: Path of the table, for an error.
        separator: Between fields; "": recognised.
        flag: That names the separator.

    Raises:
        DataError: there is none.
    """
    num_skipped, said = before(lines, where)
    separator = separator or said or separator_of(lines[num_skipped:], where, flag=flag)
    names, num_lines = next(records(lines[num_skipped:], separator))

    found = [_ATOMIC.search(name.strip()) for name in names]
    columns = tuple(_ATOMIC.sub("", name.strip()) for name in names)
    listed = frozenset(name for name, atomic in zip(columns, found, strict=True) if atomic and atomic[1])
    return Header(columns=columns, separator=separator, num_lines=num_skipped + num_lines, listed=listed)


def given_header(
    names: tuple[str, ...], lines: Sequence[str], where: str, *, prefix: str = "", separator: str = ""
) -> Header:
    """The header that --columns gives to a table without one, checked against the first record.

    Args:
        names: Of all columns.
        lines: The first lines of the file.
        where: Path of the table, for an error.
        prefix: Of the table's flags.
        separator: Between fields; "": recognised.

    Raises:
        ConfigError: the first line is a header, or has another number of columns.
    """
    num_skipped, said = before(lines, where)
    rest, flag = lines[num_skipped:], f"--{prefix}columns"
    separator = separator or said
    separator = separator or separator_of(rest, where, num_columns=len(names), flag=f"--{prefix}separator")
    first, _ = next(records(rest, separator))

    stripped = [_ATOMIC.sub("", field.strip()) for field in first]
    if sum(map(is_known_name, stripped)) > 1 or stripped == list(names):
        raise ConfigError(
            f"{flag}: {where} has a header line",
            expected="a table that begins with a record",
            found=shown(rest[0]),
            hint=f"leave {flag} out; --{prefix}item_column NAME and others name its columns",
        )
    if len(first) != len(names):
        raise ConfigError(
            f"{flag}: {len(names)} names, but {where} has {len(first)} columns",
            found=shown(rest[0]),
            hint=f"{flag} {suggested_columns(first)} (in the file's order; _ for a column to ignore)",
        )

    columns = tuple("" if name == IGNORED else name for name in names)
    return Header(columns=columns, separator=separator, num_lines=num_skipped)


def unique_names(columns: Sequence[str]) -> tuple[str, ...]:
    """The same names, with one made up for a column that has none, or that of an earlier one."""
    times = Counter(columns)
    return tuple(
        name if name and times[name] == 1 else f"column {number}" for number, name in enumerate(columns, start=1)
    )


def first_lines(opened: IO[bytes], encoding: str) -> list[str]:
    """The first lines of a text."""
    lines = [opened.readline().decode(encoding, errors="replace") for _ in range(_MAX_LINES)]
    return [line for line in lines if line]


def json_fields(path: Path, opened: Callable[[Path], IO[bytes]], encoding: str, unit: str = "line") -> dict[str, bool]:
    """The fields of the first records of JSON lines, in the order in which they appear, and whether they are lists.

    Raises:
        DataError: the first record is not a JSON object.
    """
    fields: dict[str, bool] = {}
    with opened(path) as file:
        for number, raw in zip(range(1, _RECORDS + 1), file, strict=False):
            if not raw.strip():
                continue

            try:
                row = json.loads(raw.decode(encoding, errors="replace"))
            except (ValueError, RecursionError) as error:
                if fields:
                    continue
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                raise DataError(f"{path}, {unit} {number}: not a JSON object ({reason})") from error
            if isinstance(row, dict):
                fields |= {name: fields.get(name, False) or isinstance(one, list) for name, one in row.items()}
            elif not fields:
                raise DataError(
                    f"{path}, {unit} {number}: expected a JSON object, found {raw[:60].decode(errors='replace')!r}"
                )

    if not fields:
        raise DataError(f"{path}: the file is empty", expected="a JSON object in each line")
    return fields


def before(lines: Sequence[str], where: str) -> tuple[int, str]:
    """How many lines come before the first that counts, and the separator that they say.

    Raises:
        DataError: none does, or it is no text.
    """
    separator = ""
    for number, line in enumerate(lines):
        is_excel = line.lower().startswith(_EXCEL) and len(line.rstrip("\r\n")) == len(_EXCEL) + 1
        if line.strip() and not is_excel:
            _check_is_text(line, where)
            return number, separator
        separator = line.rstrip("\r\n")[-1] if is_excel else separator

    raise DataError(f"{where}: the file is empty", expected="a first line with the column names")


def _check_is_text(line: str, where: str) -> None:
    if "\0" in line:
        raise DataError(
            f"{where}: this is no text, or text in UTF-16 without its mark",
            expected="a table as text in UTF-8",
            hint="save it as CSV in UTF-8; other kinds need their ending (.parquet, .xlsx, .zip)",
        )
    if "\r" in line.rstrip("\r\n"):
        raise DataError(
            f"{where}: its lines end with a carriage return alone",
            expected=r"lines that end with \n or \r\n",
            hint="save the file anew as CSV, or convert its line ends",
        )


def shown(line: str) -> str:
    text = line.rstrip("\r\n")
    return repr(text if len(text) <= 120 else text[:117] + "...")
