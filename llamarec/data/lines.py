"""Text files read in blocks, record by record; an error names file, line number and reason.

Blocks keep memory independent of the file's size, and gzip needs no special case. A record of a CSV file may have line
breaks in quotes (RFC 4180). There is one reader for each format; only blocks of CSV without any quote, in which a
record is a line and a field ends at a separator, are given to polars.
"""

from __future__ import annotations

import csv
import math
import re
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import IO, Final

import msgspec
import polars as pl

from llamarec.data.containers import open_bytes
from llamarec.errors import DataError

BLOCK_BYTES = 8 * 2**20
LINE = "line number"  # the space keeps it apart from a file's own columns
_MAX_LISTED = 20

POLARS_ERRORS: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises at a damaged file; a panic of its Rust code is no `Exception`."""

Schema = dict[str, type[pl.DataType]]
KEY: Final = pl.Categorical
"""Type of a column of keys: a number in each row, and each text once."""
Row = dict[str, str | int | float | None]
Parse = Callable[["Lines"], Row | None]
"""One record from the lines; None for a blank line. Raises ValueError with the reason."""
Value = str | int | float | None
Take = Callable[["Lines"], Iterator[Sequence[Value]]]
"""Values of records in the order of the schema."""
EachBlock = Callable[[pl.DataFrame], pl.DataFrame]
"""What is kept of a block of rows."""


@dataclass
class RowLimit:
    """How many rows of interactions are read.

    Attributes:
        max_rows: The first so many; None: all.
        is_cut: Whether a file had more.
    """

    max_rows: int | None = None
    is_cut: bool = False

    def cut(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The first rows of a table of which one more was read."""
        if self.max_rows is None or rows.height <= self.max_rows:
            return rows
        self.is_cut = True
        return rows.head(self.max_rows)

    @property
    def to_read(self) -> int | None:
        """One row more than what is kept, which shows that there are more; None: all."""
        return None if self.max_rows is None else self.max_rows + 1


@dataclass
class BadLines:
    """Malformed lines, and where the reading of interactions ends.

    Attributes:
        mode: "stop" raises at the first one; "skip" counts them and lists the first few.
        count: How many were skipped.
        listed: The first few with file, number and reason.
        limit: How many rows of interactions are read.
    """

    mode: str = "stop"
    count: int = 0
    listed: list[str] = field(default_factory=list)
    limit: RowLimit = field(default_factory=RowLimit)

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
    """How lines become rows.

    Attributes:
        schema: The columns to read.
        required: Columns that every row needs; a row without one is malformed.
        parse: One record from the next lines.
        take: The values of the next records, as long as `parse` would give the same for them; it stops before another.
        read_block: Parses whole lines at once where that cannot give another result; None where it could.
        encoding: Encoding of the file. `read_block` receives UTF-8.
        unit: What a line is to a person: a line, or a record of a list.
        opened: The file's lines.
        encoding_flag: The flag that names the encoding.
    """

    schema: Schema
    required: tuple[str, ...]
    parse: Parse
    take: Take = lambda _: iter(())
    read_block: Callable[[bytes], pl.DataFrame | None] = lambda _: None
    encoding: str = "utf-8"
    unit: str = "line"
    opened: Callable[[Path], IO[bytes]] = open_bytes
    encoding_flag: str = "--encoding"


class Lines(Iterator[str]):
    """The lines of a block, and those after it that its last record needs.

    Args:
        block: Bytes of whole lines.
        more: Gives the lines after them.
        first: Number of the first line.
        encoding: Of the file.

    Attributes:
        number: Of the line where the current record began.
        taken: Lines of the current record so far.
    """

    def __init__(self, block: bytes, more: Callable[[], bytes], first: int, encoding: str) -> None:
        self._waiting, self._more, self._encoding = deque(block.splitlines(keepends=True)), more, encoding
        self._next = first
        self._end = first + len(self._waiting)
        self.number, self.taken = first, list[bytes]()

    @property
    def has_records(self) -> bool:
        """Whether a record begins in the block after the current one."""
        return bool(self._waiting) and self._next < self._end

    @property
    def next_number(self) -> int:
        """Number of the line after the last one that was taken."""
        return self._next

    def begin(self) -> None:
        """A record begins."""
        self.number, self.taken = self._next, []

    def put_back(self) -> None:
        """The current record is not taken: all its lines are read again."""
        self._waiting.extendleft(reversed(self.taken))
        self._next = self.number
        self.taken = []

    def give_back(self) -> list[bytes]:
        """The current record is its first line alone; the others are read again, as records of their own."""
        self._waiting.extendleft(reversed(self.taken[1:]))
        self._next = self.number + 1
        self.taken = self.taken[:1]
        return self.taken

    @property
    def unread(self) -> bytes:
        """Lines that were taken from behind the block and given back."""
        return b"".join(self._waiting)

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else self._more()
        if not line:
            raise StopIteration

        self.taken.append(line)
        self._next += 1
        return _decoded(line, self._encoding)


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
    if error.reason == _IS_UTF_8:
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


# Encodings of one byte whose letters lie above 0xC0: their text is hardly ever UTF-8 by chance.
_EIGHT_BITS: Final = ("cp125", "iso8859", "latin", "koi8")
_UTF_8_LETTER: Final = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_IS_UTF_8: Final = "UTF-8"


def has_utf_8(raw: bytes, encoding: str) -> bool:
    """Whether a text in an encoding of one byte has letters that are UTF-8 instead."""
    return encoding.startswith(_EIGHT_BITS) and _UTF_8_LETTER.search(raw) is not None


def _decoded(line: bytes, encoding: str) -> str:
    """The text of a line.

    Raises:
        UnicodeDecodeError: it has another encoding.
    """
    if has_utf_8(line, encoding) and _is_utf_8(line):
        raise UnicodeDecodeError(encoding, line, 0, 1, _IS_UTF_8)
    return line.decode(encoding)


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- JSON lines ----


def jsonl_format(
    schema: Schema, required: tuple[str, ...], *, encoding: str = "utf-8", list_fields: Container[str] = ()
) -> LineFormat:
    """Format of one JSON object per line; other fields are ignored. Numbers keep the spelling that they have.

    Args:
        schema: Fields to read.
        required: Fields that every object needs.
        encoding: Of the file.
        list_fields: Fields whose lists are given as text; a list in another one is no value.
    """
    numbered = {f"field_{number}": name for number, name in enumerate(schema)}
    record = msgspec.defstruct(
        "Record",
        [(field_name, msgspec.Raw, msgspec.field(default=_NULL, name=name)) for field_name, name in numbered.items()],
    )
    decoder = msgspec.json.Decoder(record)

    def parse(lines: Lines) -> Row | None:
        line = next(lines)
        if not line.strip():
            return None

        try:
            found = decoder.decode(line)
        except msgspec.ValidationError:
            raise ValueError(f"expected a JSON object, found {_kind_of(line.lstrip())}") from None
        except msgspec.MsgspecError as error:
            raise ValueError(f"not a JSON object ({error})") from None
        return {
            name: _cast(name, _text_of(name, bytes(getattr(found, field_name)), name in list_fields), schema[name])
            for field_name, name in numbered.items()
        }

    take = partial(_take_objects, numbered, schema, required)
    return LineFormat(schema, required, parse, take, encoding=encoding)


def _take_objects(
    numbered: Mapping[str, str], schema: Schema, required: Sequence[str], lines: Lines
) -> Iterator[Sequence[Value]]:
    """Objects whose fields have the kinds of the first one's: texts, or numbers as they are spelled."""
    decoder: msgspec.json.Decoder[msgspec.Struct] | None = None
    needed = [number for number, name in enumerate(schema) if name in required]
    kinds = list(schema.values())

    while lines.has_records:
        lines.begin()
        try:
            line = next(lines)
            decoder = decoder or _decoder_like(line, numbered)
            fields = msgspec.structs.astuple(decoder.decode(line))
            values = [_spelled(field, kind) for field, kind in zip(fields, kinds, strict=True)]
        except (ValueError, msgspec.MsgspecError):
            lines.put_back()
            return
        if any(values[number] is None for number in needed):
            lines.put_back()
            return
        yield values


def _decoder_like(line: str, numbered: Mapping[str, str]) -> msgspec.json.Decoder[msgspec.Struct]:
    """A decoder of objects whose fields are texts where this one's are.

    Raises:
        MsgspecError: it is no object.
    """
    first = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    texts = {name for name in numbered.values() if bytes(first.get(name, _NULL))[:1] == b'"'}
    return _decoder(tuple((field, name, name in texts) for field, name in numbered.items()))


@lru_cache(maxsize=64)
def _decoder(fields: tuple[tuple[str, str, bool], ...]) -> msgspec.json.Decoder[msgspec.Struct]:
    """By field: its name in Python and in JSON, and whether it is a text."""
    return msgspec.json.Decoder(
        msgspec.defstruct(
            "Record",
            [
                (field, str if is_text else msgspec.Raw, msgspec.field(default="" if is_text else _NULL, name=name))
                for field, name, is_text in fields
            ],
        )
    )


def _spelled(field: str | msgspec.Raw, kind: type[pl.DataType]) -> Value:
    """A value as it is spelled.

    Raises:
        ValueError: it is a text, a list or an object, or not of this kind.
    """
    if isinstance(field, str):
        return field if kind in _TEXT and field else _cast("", field, kind)

    text = bytes(field).decode()
    if text[0] in '"[{':
        raise ValueError(text)
    return None if text == "null" else text if kind in _TEXT else _cast("", text, kind)


_TEXT: Final = (pl.String, KEY)
_NULL: Final = msgspec.Raw(b"null")


def _text_of(name: str, raw: bytes, is_list: bool) -> str | None:
    """A value of JSON as text; a number or a truth value as it is spelled."""
    if is_list and raw[:1] == b"[":
        return raw.decode()
    if raw[:1] == b'"':
        return msgspec.json.decode(raw, type=str)
    if raw[:1] in (b"[", b"{"):
        raise ValueError(f"{name} is {_kind_of(raw.decode())}")
    return None if raw == b"null" else raw.decode()


def _kind_of(text: str) -> str:
    return {"[": "a list", "{": "an object", '"': "a text", "n": "null"}.get(text[:1], "a number or a truth value")


# ---- Delimited fields ----

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

        row = dict(zip(columns, fields, strict=True))
        return {name: _cast(name, row[name], kind) for name, kind in schema.items()}

    take = partial(_take_quoted, columns, schema, required, fields_of)
    return LineFormat(schema, required, parse, take if quote else LineFormat.take, read, encoding)


def _take_quoted(
    columns: Sequence[str], schema: Schema, required: Sequence[str], fields_of: FieldsOf, lines: Lines
) -> Iterator[Sequence[Value]]:
    """Records with as many fields as there are columns."""
    positions = [columns.index(name) for name in schema]
    needed = [number for number, name in enumerate(schema) if name in required]
    casts = [(number, kind) for number, kind in enumerate(schema.values()) if kind not in _TEXT]
    reader = fields_of(lines)

    while lines.has_records:
        lines.begin()
        try:
            fields = next(reader)
            if len(fields) != len(columns) or len(fields) == 1:
                raise ValueError(fields)
            values: list[Value] = [fields[position] or None for position in positions]
            for number, kind in casts:
                values[number] = _cast("", fields[positions[number]], kind)
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
        is_open = len(lines.taken) > 1 or "end of data" in str(error)
        reason = "a quote is opened here, and what follows is no closed field" if is_open else str(error)
        raise ValueError(reason) from None
    return [] if all(not field.strip() for field in fields) and len(fields) <= 1 else fields


def _cast(name: str, text: str | None, kind: type[pl.DataType]) -> str | int | float | None:
    if not text:
        return None
    if kind in _TEXT:
        return text

    try:
        number = int(text) if kind == pl.Int64 else float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    except (ValueError, OverflowError):
        raise ValueError(f"{name} is not a number: {text!r}") from None
