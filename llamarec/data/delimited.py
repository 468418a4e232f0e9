"""Delimited fields: records of RFC 4180, which may go over several lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import polars as pl

from llamarec.data.line_formats import TEXT_KINDS, LineFormat, Lines, Row, Schema, Value, cast

FieldsOf = Callable[[Lines], Iterator[list[str]]]
"""The fields of the records of some lines."""
# Polars takes one byte only.
_UNIT_SEPARATOR: Final = b"\x1f"
_MARK: Final = "\ufeff".encode()


def csv_format(
    columns: tuple[str, ...],
    schema: Schema,
    required: tuple[str, ...],
    *,
    separator: str = ",",
    quote: bool = True,
    blank_before_quote: bool = False,
    encoding: str = "utf-8",
) -> LineFormat:
    """Format of delimited fields, a record per line or, in quotes, over several.

    Args:
        columns: Names of all fields.
        schema: Columns to read, by name.
        required: Columns that every row needs.
        separator: Between fields; where it has several characters, no field is quoted.
        quote: Whether a field may be in double quotes; otherwise these are part of its text.
        blank_before_quote: Whether blanks before a field are not part of it, so that a quote may follow them.
        encoding: Of the file.
    """
    num_separators = len(columns) - 1
    needed = [columns.index(name) for name in schema if name in required]
    is_long = len(separator) > 1
    quote = quote and not is_long

    def fields_of(lines: Lines) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=blank_before_quote)

    def read(block: bytes) -> pl.DataFrame | None:
        # Polars takes it for a byte-order mark.
        if blank_before_quote or block.startswith(_MARK) or (is_long and _UNIT_SEPARATOR in block):
            return None

        num_lines = block.count(b"\n") + (not block.endswith(b"\n"))
        has_more = (quote and b'"' in block) or b"\r" in block
        if has_more or block.count(separator.encode()) != num_lines * num_separators:
            return None

        one_byte = block.replace(separator.encode(), _UNIT_SEPARATOR) if is_long else block
        mark = _UNIT_SEPARATOR.decode() if is_long else separator
        return pl.read_csv(
            one_byte, has_header=False, separator=mark, quote_char=None, schema=dict.fromkeys(columns, pl.String)
        )

    def parse(lines: Lines) -> Row | None:
        fields = _quoted_fields(lines, fields_of) if quote else next(lines).rstrip("\r\n").split(separator)
        if not fields or (fields == [""] and num_separators):
            return None
        if len(fields) != len(columns):
            raise ValueError(f"expected {len(columns)} fields separated by {separator!r}, found {len(fields)}")
        if len(lines.taken) > 1 and _hold_records(fields, needed, separator):
            raise ValueError("a quote is opened here, and whole records follow before one closes it")

        row = dict(zip(columns, fields, strict=True))
        return {name: cast(name, row[name], kind) for name, kind in schema.items()}

    take = partial(_take_quoted, columns, schema, required, fields_of, separator)
    return LineFormat(schema, required, parse, take if quote else LineFormat.take, read, encoding)


def _take_quoted(
    columns: Sequence[str],
    schema: Schema,
    required: Sequence[str],
    fields_of: FieldsOf,
    separator: str,
    lines: Lines,
) -> Iterator[Sequence[Value]]:
    """Records with as many fields as there are columns."""
    positions = [columns.index(name) for name in schema]
    needed = [number for number, name in enumerate(schema) if name in required]
    casts = [(number, kind) for number, kind in enumerate(schema.values()) if kind not in TEXT_KINDS]
    reader = fields_of(lines)

    while lines.has_records:
        lines.begin()
        try:
            fields = next(reader)
            if len(fields) != len(columns) or len(fields) == 1:
                raise ValueError(fields)
            if len(lines.taken) > 1 and _hold_records(fields, [positions[number] for number in needed], separator):
                raise ValueError(fields)
            values: list[Value] = [fields[position] or None for position in positions]
            for number, kind in casts:
                values[number] = cast("", fields[positions[number]], kind)
        except (csv.Error, ValueError):
            lines.put_back()
            return
        if any(values[number] is None for number in needed):
            lines.put_back()
            return
        yield values


def _quoted_fields(lines: Lines, fields_of: FieldsOf) -> list[str]:
    try:
        fields = next(fields_of(lines), [])
    except csv.Error as error:
        if any(b'\\"' in line for line in lines.taken):
            raise ValueError('a quote in a field is written \\" here; CSV doubles it ("")') from None
        reason = str(error)
        if "expected after" in reason:
            reason = 'a field begins with a quote that closes before its end; CSV writes "" for a quote in a field'
        if len(lines.taken) > 1 or "end of data" in reason:
            reason = "a quote is opened here, and what follows is no closed field"
        raise ValueError(reason) from None
    return [] if all(not field.strip() for field in fields) and len(fields) <= 1 else fields


def _hold_records(fields: Sequence[str], needed: Sequence[int], separator: str) -> bool:
    """Whether a field of several lines holds what looks like records: a quote of one that another one's closes.

    Args:
        fields: Of a record.
        needed: Positions of the columns that every record has.
        separator: Between fields.
    """
    if len(needed) <= 1:
        return False
    shapes = {position: _shape(fields[position]) for position in needed if "\n" not in fields[position]}
    for number, field in enumerate(fields):
        for line in field.split("\n")[1:]:
            inner = line.rstrip("\r").split(separator)
            seen = [position for position in shapes if position < len(inner)]
            is_record = len(inner) == len(fields) or len(inner) == number + 1
            if is_record and len(seen) > 1 and all(_shape(inner[position]) == shapes[position] for position in seen):
                return True
    return False


def _shape(text: str) -> str:
    """A field with one letter for letters and one digit for digits: a9 for u17."""
    return re.sub(r"\d+", "9", re.sub(r"[^\W\d]+", "a", text))
