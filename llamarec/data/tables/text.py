"""Parts that are text: delimited fields, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import polars as pl

from llamarec.data.containers import marked_encoding, reading
from llamarec.data.lines import BadLines, EachBlock, Schema, csv_format, jsonl_format, read_lines
from llamarec.data.tables.header import (
    first_lines,
    given_header,
    json_fields,
    read_header,
    unique_names,
)
from llamarec.data.tables.header_checks import check_as_many_fields, check_is_header
from llamarec.data.tables.json_forms import json_form
from llamarec.data.tables.parts import Part, TableOptions, check_has_names
from llamarec.data.tables.separators import has_blank_before_quote, word_of
from llamarec.errors import DataError

_UTF_16: Final = "utf-16"


def delimited_part(path: Path, options: TableOptions, asked: Sequence[str]) -> Part:
    """A part with delimited fields.

    Args:
        path: Of the file.
        options: How it is to be read.
        asked: Names of columns that flags give.

    Raises:
        ConfigError: its header is none, or its separator is not clear.
        DataError: it is empty or no text.
    """
    encoding, prefix = _encoding(path, options), options.prefix
    with reading(path) as file:
        lines = first_lines(file, encoding)

    if options.columns:
        header = given_header(options.columns, lines, str(path), prefix=prefix, separator=options.separator)
    else:
        header = read_header(lines, str(path), separator=options.separator, flag=f"--{prefix}separator")
        if not set(asked) & set(header.columns):
            check_is_header(header, lines, str(path), prefix=prefix)
        check_as_many_fields(header, lines, str(path))

    blank_before_quote = has_blank_before_quote(lines, header.separator)

    def read(
        columns: Sequence[str], required: Sequence[str], bad: BadLines, each: EachBlock, max_rows: int | None
    ) -> pl.DataFrame:
        form = csv_format(
            unique_names(header.columns),
            dict.fromkeys(columns, pl.String),
            tuple(required),
            separator=header.separator,
            blank_before_quote=blank_before_quote,
            encoding=encoding,
        )
        form = replace(form, encoding_flag=f"--{prefix}encoding")
        return read_lines(path, form, bad, skip_lines=header.num_lines, numbered=True, each=each, max_rows=max_rows)

    form = f"separated by {word_of(header.separator)}" + (", without a header" if options.columns else "")
    return Part(path=path, names=header.columns, read=read, listed=header.listed, form=form)


def json_part(path: Path, options: TableOptions) -> Part:
    """A part with JSON lines, with one list of objects, or with objects one after the other.

    Raises:
        ConfigError: --columns was given, which is for tables without names.
        DataError: it has no JSON object, or is JSON in a form that is not read.
    """
    check_has_names(path, options, "JSON")
    encoding = _encoding(path, options)
    opened, unit, said = json_form(path)

    fields = json_fields(path, opened, encoding, unit)
    list_fields = [name for name, is_listed in fields.items() if is_listed]

    def read(
        columns: Sequence[str], required: Sequence[str], bad: BadLines, each: EachBlock, max_rows: int | None
    ) -> pl.DataFrame:
        schema: Schema = dict.fromkeys(columns, pl.String)
        form = jsonl_format(schema, tuple(required), encoding=encoding, list_fields=list_fields, has_unique_names=False)
        form = replace(form, encoding_flag=f"--{options.prefix}encoding", opened=opened, unit=unit)
        return read_lines(path, form, bad, numbered=True, each=each, max_rows=max_rows)

    return Part(path=path, names=tuple(fields), read=read, unit=unit, form=said)


def _encoding(path: Path, options: TableOptions) -> str:
    """The encoding of what `open_bytes` gives: what the file's mark says, else what the flag does.

    Raises:
        DataError: both say something, and not the same.
    """
    marked, flag = marked_encoding(path), f"--{options.prefix}encoding"
    if marked and options.encoding not in ("utf-8", _UTF_16):
        raise DataError(
            f"{path}: it begins with the mark of UTF-8 or UTF-16",
            expected=f"text in {options.encoding} ({flag})",
            hint=f"{flag} utf-8",
        )
    if options.encoding == _UTF_16 and not marked:
        raise DataError(
            f"{path}: no byte-order mark, which UTF-16 begins with",
            hint=f"leave {flag} out, or save the file as UTF-8",
        )
    return marked or options.encoding
