"""Text files read in blocks by polars; an error names file, line number and reason.

Blocks keep memory independent of the file's size, and gzip needs no special case. Polars parses a block at once. Only
a block that fails, or misses a value, is parsed line by line.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import polars as pl

from llamarec.errors import DataError

BLOCK_BYTES = 32 * 2**20
LINE = "line number"  # the space keeps it apart from a file's own columns
_MAX_LISTED = 20

Schema = dict[str, type[pl.DataType]]
Row = dict[str, object]
Parse = Callable[[str], Row]


@dataclass
class BadLines:
    """Malformed lines.

    Attributes:
        mode: "stop" raises at the first one; "skip" counts them and lists the first few.
        count: How many were skipped.
        listed: The first few with file, number and reason.
    """

    mode: str = "stop"
    count: int = 0
    listed: list[str] = field(default_factory=list)

    def add(
        self, path: Path, number: int, reason: str, line: str, *, expected: str | None = None, unit: str = "line"
    ) -> None:
        """Counts a malformed line (or a row, as `unit` says).

        Raises:
            DataError: the mode is "stop".
        """
        if self.mode == "stop":
            shown = line if len(line) <= 120 else line[:117] + "..."
            raise DataError(
                f"{path}, {unit} {number}: {reason}",
                expected=expected,
                found=repr(shown),
                hint="fix the line, or skip malformed lines: --on_bad_line skip",
            )

        self.count += 1
        if len(self.listed) < _MAX_LISTED:
            self.listed.append(f"{path.name}, {unit} {number}: {reason}")


@dataclass(frozen=True)
class LineFormat:
    """How a line becomes a row.

    Attributes:
        schema: The columns to read.
        required: Columns that every row needs; a row without one is malformed.
        read_block: Parses a block with polars; may raise, or leave nulls.
        parse_line: Parses one line; raises ValueError with the reason.
        encoding: Encoding of the file. Both functions receive UTF-8.
    """

    schema: Schema
    required: tuple[str, ...]
    read_block: Callable[[bytes], pl.DataFrame]
    parse_line: Parse
    encoding: str = "utf-8"


def read_lines(
    path: Path,
    form: LineFormat,
    bad: BadLines,
    *,
    skip_lines: int = 0,
    keep: pl.Expr | None = None,
    numbered: bool = False,
) -> pl.DataFrame:
    """All rows of a text file, in its order.

    Args:
        path: Plain or gzip.
        form: How a line becomes a row.
        bad: What happens to malformed lines.
        skip_lines: Number of header lines.
        keep: Condition for the rows to keep, applied per block so that other rows take no memory.
        numbered: Adds the column LINE with line numbers, from 1.

    Raises:
        DataError: the file cannot be read, or a line is malformed and `bad` stops.
    """
    schema: Schema = form.schema | ({LINE: pl.Int64} if numbered else {})
    frames = [pl.DataFrame(schema=schema)]
    for first_line, raw in _blocks(path, skip_lines):
        block = raw if form.encoding == "utf-8" else _recoded(path, raw, form.encoding)
        frame = _read_block(path, first_line, block, form, bad).select(*schema)
        frames.append(frame if keep is None else frame.filter(keep))

    return pl.concat(frames)


def _read_block(path: Path, first_line: int, block: bytes, form: LineFormat, bad: BadLines) -> pl.DataFrame:
    try:
        frame = form.read_block(block).select(pl.col(name).cast(kind) for name, kind in form.schema.items())
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        missing = pl.any_horizontal(pl.col(name).is_null() for name in form.required)
        if frame.height == lines and not frame.select(missing.any()).item():
            return frame.with_columns((pl.int_range(pl.len()) + first_line).alias(LINE))
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        pass
    return _line_by_line(path, first_line, block, form, bad)


def _line_by_line(path: Path, first_line: int, block: bytes, form: LineFormat, bad: BadLines) -> pl.DataFrame:
    rows = []
    for number, raw in enumerate(block.splitlines(), start=first_line):
        if not raw.strip():
            continue

        try:
            row = form.parse_line(raw.decode("utf-8"))
            missing = [name for name in form.required if row.get(name) in (None, "")]
            if missing:
                raise ValueError(f"no value for {' and '.join(missing)}")

            rows.append({name: row.get(name) for name in form.schema} | {LINE: number})
        except UnicodeDecodeError as error:
            if bad.mode == "stop":
                raise _not_utf_8(path, number, error) from error
            bad.add(path, number, f"not UTF-8: {error}", "")
        except ValueError as error:
            bad.add(path, number, str(error), raw.decode("utf-8", errors="replace"))

    return pl.DataFrame(rows, schema={**form.schema, LINE: pl.Int64})


def _recoded(path: Path, raw: bytes, encoding: str) -> bytes:
    try:
        return raw.decode(encoding).encode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: its text is not {encoding}",
            found=f"byte 0x{error.object[error.start]:02x}, which {encoding} does not have",
            hint="name the encoding: --encoding NAME, or save the file as UTF-8",
        ) from error


def _not_utf_8(path: Path, number: int, error: UnicodeDecodeError) -> DataError:
    """Does not advise --on_bad_line skip: every line with an umlaut would go, and nobody would see why."""
    shown = error.object.decode("cp1252", errors="replace")
    return DataError(
        f"{path}, line {number}: its text is not UTF-8",
        found=f"byte 0x{error.object[error.start]:02x}; as cp1252 the line reads {shown[:120]!r}",
        hint="for your own table: --encoding cp1252 (or its true encoding), or save the file as UTF-8",
    )


def jsonl_format(schema: Schema, required: tuple[str, ...], *, encoding: str = "utf-8") -> LineFormat:
    """Format of one JSON object per line; other fields are ignored."""

    def parse(line: str) -> Row:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a JSON object ({error.msg} at column {error.colno})") from None
        if not isinstance(row, dict):
            raise ValueError(f"expected a JSON object, found a {type(row).__name__}")
        return {name: _cast(name, row.get(name), kind) for name, kind in schema.items()}

    return LineFormat(schema, required, lambda block: pl.read_ndjson(block, schema=schema), parse, encoding)


def csv_format(
    columns: tuple[str, ...],
    schema: Schema,
    required: tuple[str, ...],
    *,
    separator: str = ",",
    quote: bool = True,
    encoding: str = "utf-8",
) -> LineFormat:
    """Format of delimited fields, one record per line; `columns` names all of them, `schema` those to read."""
    quote_char = '"' if quote else None

    def read(block: bytes) -> pl.DataFrame:
        return pl.read_csv(
            block,
            has_header=False,
            separator=separator,
            quote_char=quote_char,
            schema=dict.fromkeys(columns, pl.String),
        ).select(pl.col(name).cast(kind) for name, kind in schema.items())

    def parse(line: str) -> Row:
        fields = next(csv.reader([line], delimiter=separator), []) if quote else line.split(separator)
        if len(fields) != len(columns):
            raise ValueError(f"expected {len(columns)} fields separated by {separator!r}, found {len(fields)}")

        row = dict(zip(columns, fields, strict=True))
        return {name: _cast(name, row[name], kind) for name, kind in schema.items()}

    return LineFormat(schema, required, read, parse, encoding)


def _cast(name: str, value: object, kind: type[pl.DataType]) -> str | int | float | None:
    if value is None or value == "":
        return None
    if kind == pl.String:
        return str(value)

    try:
        if isinstance(value, str | int | float):
            return int(value) if kind == pl.Int64 else float(value)
    except ValueError:
        pass
    raise ValueError(f"{name} is not a number: {value!r}")


def _blocks(path: Path, skip_lines: int) -> Iterator[tuple[int, bytes]]:
    """Pairs (number of the first line, bytes of whole lines) until the end of the file."""
    try:
        with open_bytes(path) as file:
            for _ in range(skip_lines):
                file.readline()

            number = skip_lines + 1
            while block := file.read(BLOCK_BYTES):
                block += file.readline()
                block = block.replace(b"\r\n", b"\n")
                yield number, block
                number += block.count(b"\n")
    except (OSError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read", found=str(error), hint="the file may be incomplete: fetch it again"
        ) from error


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file, decompressed if it is gzip, without a byte-order mark."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    opened: IO[bytes] = gzip.open(path, "rb") if is_gzip else path.open("rb")  # type: ignore[assignment]  # noqa: SIM115
    if opened.read(3) != b"\xef\xbb\xbf":
        opened.seek(0)
    return opened
