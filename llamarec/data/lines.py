"""Text files read in blocks, record by record; an error names file, line number and reason.

Blocks keep memory independent of the file's size, and gzip needs no special case. A record of a CSV file may have line
breaks in quotes (RFC 4180). There is one reader for each format; only blocks of CSV without any quote, in which a
record is a line and a field ends at a separator, are given to polars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import polars as pl

from llamarec.data.bad_lines import BadLines, RowLimit
from llamarec.data.delimited import csv_format
from llamarec.data.json_lines import jsonl_format
from llamarec.data.line_formats import KEY, LineFormat, Lines, Row, Schema, Value
from llamarec.data.text_encodings import IS_UTF_8, has_utf_8
from llamarec.errors import DataError

__all__ = [
    "BLOCK_BYTES",
    "KEY",
    "LINE",
    "POLARS_ERRORS",
    "BadLines",
    "EachBlock",
    "LineFormat",
    "Lines",
    "Row",
    "RowLimit",
    "Schema",
    "csv_format",
    "jsonl_format",
    "read_interactions",
    "read_lines",
]

BLOCK_BYTES = 8 * 2**20
LINE = "line number"  # the space keeps it apart from a file's own columns

POLARS_ERRORS: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises at a damaged file; a panic of its Rust code is no `Exception`."""

EachBlock = Callable[[pl.DataFrame], pl.DataFrame]
"""What is kept of a block of rows."""


def _unchanged(rows: pl.DataFrame) -> pl.DataFrame:
    return rows


def read_lines(
    path: Path,
    form: LineFormat,
    bad: BadLines,
    *,
    skip_lines: int = 0,
    numbered: bool = False,
    each: EachBlock = _unchanged,
    max_rows: int | None = None,
) -> pl.DataFrame:
    """The rows of a text file, in its order.

    Args:
        path: Plain or gzip.
        form: How a line becomes a row.
        bad: What happens to malformed lines.
        skip_lines: Number of header lines.
        numbered: Adds the column LINE with line numbers, from 1.
        each: What is kept of a block of rows, applied before the next one is read: what it drops takes no memory.
        max_rows: The first so many rows of the file, if it has more; None: all.

    Raises:
        DataError: the file cannot be read, or a line is malformed and `bad` stops.
    """
    schema: Schema = form.schema | ({LINE: pl.Int64} if numbered else {})
    frames = [each(pl.DataFrame(schema=schema))]
    frames += (each(frame.select(*schema)) for frame in _frames(path, form, bad, skip_lines, max_rows))
    return pl.concat(frames)


def read_interactions(
    path: Path, form: LineFormat, bad: BadLines, *, skip_lines: int = 0, each: EachBlock = _unchanged
) -> pl.DataFrame:
    """The rows of a text file of interactions: all, or the first (`BadLines.limit`). Arguments as in `read_lines`."""
    if bad.limit.max_rows is None:
        return read_lines(path, form, bad, skip_lines=skip_lines, each=each)

    rows = read_lines(path, form, bad, skip_lines=skip_lines, max_rows=bad.limit.to_read)
    return each(bad.limit.cut(rows))


def _frames(
    path: Path, form: LineFormat, bad: BadLines, skip_lines: int, max_rows: int | None
) -> Iterator[pl.DataFrame]:
    left = max_rows
    try:
        with form.opened(path) as file:
            for _ in range(skip_lines):
                file.readline()

            number, rest = skip_lines + 1, b""
            while (left is None or left > 0) and (block := rest + file.read(BLOCK_BYTES)):
                block += file.readline()
                rest = b""
                frame = _at_once(number, block, form)
                if frame is not None:
                    number += frame.height
                    frame = frame if left is None else frame.head(left)
                else:
                    lines = Lines(block, file.readline, number, form.encoding)
                    with bad.among(len(lines)):
                        frame = _one_by_one(path, lines, form, bad, left)
                    number, rest = lines.next_number, lines.unread

                left = None if left is None else left - frame.height
                yield frame
    except (OSError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read", found=str(error), hint="the file may be incomplete: fetch it again"
        ) from error


def _at_once(first_line: int, block: bytes, form: LineFormat) -> pl.DataFrame | None:
    """The rows of a block, if it has a row in every line, without a doubt; else None."""
    text = block.replace(b"\r\n", b"\n")
    try:
        if form.encoding != "utf-8":
            if has_utf_8(block, form.encoding):
                return None
            text = text.decode(form.encoding).encode()
        frame = form.read_block(text)
        if frame is None:
            return None
        frame = frame.select(pl.col(name).cast(kind) for name, kind in form.schema.items())
    except (*POLARS_ERRORS, UnicodeDecodeError):
        return None

    lines = text.count(b"\n") + (not text.endswith(b"\n"))
    nothing = [pl.col(name).is_null() for name in form.required]
    no_numbers = [~pl.col(name).is_finite() for name, kind in form.schema.items() if kind == pl.Float64]
    missing = pl.any_horizontal(pl.lit(False), *nothing, *no_numbers)
    if frame.height != lines or frame.select(missing).to_series().any():
        return None
    return frame.with_columns((pl.int_range(pl.len()) + first_line).alias(LINE))


def _one_by_one(path: Path, lines: Lines, form: LineFormat, bad: BadLines, max_rows: int | None) -> pl.DataFrame:
    rows, numbers = list[Sequence[Value]](), list[int]()
    while lines.has_records and (max_rows is None or len(rows) < max_rows):
        for values in islice(form.take(lines), None if max_rows is None else max_rows - len(rows)):
            rows.append(values)
            numbers.append(lines.number)
        if not lines.has_records:
            break

        lines.begin()
        row = _parsed(path, lines, form, bad)
        if row is not None:
            rows.append([row.get(name) for name in form.schema])
            numbers.append(lines.number)

    frame = pl.DataFrame(rows, schema=form.schema, orient="row", infer_schema_length=None)
    return frame.with_columns(pl.Series(LINE, numbers, dtype=pl.Int64))


def _parsed(path: Path, lines: Lines, form: LineFormat, bad: BadLines) -> Row | None:
    """The next record; None where it is blank or malformed."""
    try:
        row = form.parse(lines)
        missing = [name for name in form.required if row.get(name) in (None, "")] if row is not None else []
        if missing:
            raise ValueError(f"no value for {' and '.join(missing)}")
        return row
    except UnicodeDecodeError as error:
        lines.give_back()
        if bad.mode == "stop":
            raise _not_decoded(path, lines.number, error, form) from error
        bad.add(path, lines.number, f"not {form.encoding}: {error}", "", unit=form.unit)
    except ValueError as error:
        shown = b"".join(lines.give_back()).decode(form.encoding, errors="replace").rstrip("\r\n")
        bad.add(path, lines.number, str(error), shown, unit=form.unit)
    return None


def _not_decoded(path: Path, number: int, error: UnicodeDecodeError, form: LineFormat) -> DataError:
    """Does not advise --on_bad_line skip: every line with an umlaut would go, and nobody would see why."""
    name = "UTF-8" if form.encoding == "utf-8" else form.encoding
    if error.reason == IS_UTF_8:
        return DataError(
            f"{path}, {form.unit} {number}: its text is UTF-8, not {name}",
            found=repr(error.object.decode().rstrip("\r\n")[:120]),
            hint=f"{form.encoding_flag} utf-8; if the file has lines in both, save it anew in one encoding",
        )

    shown = error.object.decode("cp1252", errors="replace").rstrip("\r\n")
    return DataError(
        f"{path}, {form.unit} {number}: its text is not {name}",
        found=f"byte 0x{error.object[error.start]:02x}; as cp1252 the line reads {shown[:120]!r}",
        hint=f"for your own table: {form.encoding_flag} cp1252 (or its true encoding), or save the file as UTF-8",
    )
