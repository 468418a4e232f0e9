"""Files of the users or histories to recommend for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from llamarec.data.lines import POLARS_ERRORS
from llamarec.data.tables.columns import is_known
from llamarec.data.tables.separators import SEPARATORS
from llamarec.errors import DataError
from llamarec.vocabulary import USER

_JSON_LINES: Final = (".jsonl", ".ndjson", ".json")
_EXPECTED: Final = (
    "a text file with a user's key per line; a CSV, TSV or Parquet table with a column 'user'; or JSON lines like "
    '{"user": "A1YJ"} or {"id": "any name", "history": ["a title or key", "..."]}'
)


@dataclass(frozen=True)
class Request:
    """One user or history to recommend for.

    Attributes:
        id: Name of the answer: the user's key, or any name.
        user: Key of a user of the data; None if there is a history instead.
        history: Keys or titles, oldest first.
    """

    id: str
    user: str | None = None
    history: tuple[str, ...] = ()


def read_requests(path: Path, user_column: str = "") -> list[Request]:
    """All requests of a file, in its order.

    Args:
        path: Text with a key per line, table or JSON lines.
        user_column: Name of the users' column in the data; a column of that name is preferred.

    Raises:
        DataError: the file is missing, empty or malformed, or two different requests have one id; the error names the
            lines.
    """
    if not path.exists():
        raise DataError(f"--users {path}: cannot be read", expected=_EXPECTED, found="there is no such file")

    try:
        requests = _distinct(path, _read(path, user_column))
    except (OSError, UnicodeDecodeError, *POLARS_ERRORS) as error:
        raise DataError(f"--users {path}: cannot be read", expected=_EXPECTED, found=str(error)) from error

    if not requests:
        raise DataError(f"--users {path}: the file names no user", expected=_EXPECTED)
    return requests


class _Line(NamedTuple):
    """A request, the line it stands in, and whether that line gives it a name."""

    number: int
    request: Request
    is_named: bool = True


def _distinct(path: Path, lines: list[_Line]) -> list[Request]:
    """Each request once: one that stands twice is answered once.

    Raises:
        DataError: two different requests have one id, so that nobody could tell their answers apart.
    """
    first: dict[str, _Line] = {}
    for line in lines:
        other = first.setdefault(line.request.id, line)
        if other.request == line.request and ((other.is_named and line.is_named) or other is line):
            continue

        unnamed = [str(one.number) for one in (other, line) if not one.is_named]
        raise DataError(
            f"--users {path}, lines {other.number} and {line.number}: two requests with the id {line.request.id!r}",
            expected="an id of its own for each request",
            found=f"line {unnamed[0]} has no id, so its number is its id" if unnamed else "both lines give this id",
            hint=f'add "id": "any other name" to line {unnamed[0] if unnamed else line.number}',
        )
    return [line.request for line in first.values()]


def _read(path: Path, user_column: str) -> list[_Line]:
    name = path.name.lower()
    if name.endswith((".csv", ".tsv", ".parquet")):
        return _from_table(path, user_column)
    # Not splitlines: titles may contain other line separators of Unicode.
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if name.endswith(_JSON_LINES):
        return [_from_json(path, number, line) for number, line in numbered]
    return [_Line(number, Request(line, user=line)) for number, line in numbered]


def _from_table(path: Path, user_column: str) -> list[_Line]:
    if path.suffix.lower() == ".parquet":
        table = pl.read_parquet(path, glob=False)
    else:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separators = sorted(SEPARATORS, key=lambda one: one != ("\t" if path.suffix.lower() == ".tsv" else ","))
        separator = max(separators, key=header.count)
        table = pl.read_csv(path, infer_schema=False, separator=separator, glob=False)

    # The same names are recognised in a table of interactions.
    recognised = [name for name in table.columns if is_known(USER, name)]
    wanted = [user_column, *recognised] if user_column else recognised
    column = next((name for name in wanted if name in table.columns), None)
    if column is None:
        raise DataError(
            f"--users {path}: there is no column {user_column or USER!r}",
            expected=_EXPECTED,
            found=", ".join(table.columns),
        )

    keys = table[column].cast(pl.String).unique(maintain_order=True).drop_nulls()
    return [_Line(number, Request(key, user=key)) for number, key in enumerate(keys, start=1)]


def _from_json(path: Path, number: int, line: str) -> _Line:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise _malformed(path, number, line, str(error)) from None
    if not isinstance(content, dict) or ("user" in content) == ("history" in content):
        raise _malformed(path, number, line, "expected an object with either user or history")

    if "user" in content:
        key, name = content["user"], content.get("id", content["user"])
        if not _is_text(key) or not _is_text(name):
            raise _malformed(path, number, line, "user and id must be strings or whole numbers")
        return _Line(number, Request(str(name), user=str(key)))

    history = content["history"]
    if not isinstance(history, list) or not history or not all(_is_text(item) for item in history):
        raise _malformed(path, number, line, "history must be a non-empty list of titles or keys")
    if not _is_text(content.get("id", number)):
        raise _malformed(path, number, line, "id must be a string or a whole number")
    request = Request(str(content.get("id", number)), history=tuple(str(item) for item in history))
    return _Line(number, request, is_named="id" in content)


def _is_text(value: object) -> bool:
    if isinstance(value, str):
        # No file can contain half a surrogate pair, which broken programs write.
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return isinstance(value, int) and not isinstance(value, bool)


def _malformed(path: Path, number: int, line: str, reason: str) -> DataError:
    shown = line if len(line) <= 120 else line[:117] + "..."
    return DataError(f"--users {path}, line {number}: {reason}", expected=_EXPECTED, found=shown)
