"""The columns that a text table names: its header, or the fields of its first records."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from llamarec.data.lines import open_bytes
from llamarec.errors import DataError

SEPARATORS: Final = (",", "\t", ";", "|")
# A JSON record may lack a field that others have.
_RECORDS: Final = 1_000
_MAX_LINES: Final = 100
# The first line of a CSV that Excel wrote for another country's Excel.
_EXCEL: Final = "sep="
# RecBole's atomic files (.inter, .item) name a column's type after it.
_ATOMIC: Final = re.compile(r":(?:token|float)(?:_seq)?$")


class Header(NamedTuple):
    """columns: names in their order, "" where there is none. num_lines: how many lines the header takes."""

    columns: tuple[str, ...]
    separator: str
    num_lines: int


def read_header(path: Path, encoding: str) -> Header:
    """The header of a CSV or TSV; blank lines before it are passed over.

    Raises:
        DataError: there is none.
    """
    separator, skipped = "", 0
    with open_bytes(path) as file:
        lines = [file.readline().decode(encoding, errors="replace") for _ in range(_MAX_LINES)]
    for line in lines:
        is_excel = line.lower().startswith(_EXCEL) and len(line.strip()) == len(_EXCEL) + 1
        if line.strip() and not is_excel:
            break

        separator = line.strip()[-1] if is_excel else separator
        skipped += 1
    if not "".join(lines[skipped:]).strip():
        raise DataError(f"{path}: the file is empty", expected="a first line with the column names")
    if "\0" in lines[skipped]:
        raise DataError(
            f"{path}: this is no text, or text in UTF-16",
            expected="a table as text in UTF-8",
            hint="save it as CSV in UTF-8; Parquet needs the ending .parquet",
        )
    if "\r" in lines[skipped].rstrip("\r\n"):
        raise DataError(
            f"{path}: its lines end with a carriage return alone",
            expected=r"lines that end with \n or \r\n",
            hint="save the file anew as CSV, or convert its line ends",
        )

    separator = separator or max(SEPARATORS, key=_outside_quotes(lines[skipped]).count)
    reader = csv.reader(iter(lines[skipped:]), delimiter=separator)
    columns = tuple(_ATOMIC.sub("", name.strip()) for name in next(reader))
    return Header(columns, separator, skipped + reader.line_num)


def unique_names(columns: Sequence[str]) -> tuple[str, ...]:
    """The same names, with one made up for a column that has none, or that of an earlier one."""
    times = Counter(columns)
    return tuple(
        name if name and times[name] == 1 else f"column {number}" for number, name in enumerate(columns, start=1)
    )


def json_fields(path: Path, encoding: str) -> tuple[str, ...]:
    """The fields of the first records of JSON lines, in the order in which they appear.

    Raises:
        DataError: the first record is not a JSON object.
    """
    fields: dict[str, None] = {}
    with open_bytes(path) as file:
        for number, raw in zip(range(1, _RECORDS + 1), file, strict=False):
            if not raw.strip():
                continue

            try:
                row = json.loads(raw.decode(encoding, errors="replace"))
            except (json.JSONDecodeError, RecursionError) as error:
                if fields:
                    continue
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                raise DataError(f"{path}, line {number}: not a JSON object ({reason})") from error
            if isinstance(row, dict):
                fields |= dict.fromkeys(row)
            elif not fields:
                raise DataError(f"{path}, line {number}: expected a JSON object, found a {type(row).__name__}")

    if not fields:
        raise DataError(f"{path}: the file is empty", expected="a JSON object in each line")
    return tuple(fields)


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2])
