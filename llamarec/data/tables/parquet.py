"""Parts that are Parquet files; and values of any type as text."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from llamarec.data.containers import open_binary, reading, real_file
from llamarec.data.lines import LINE, POLARS_ERRORS, BadLines, EachBlock
from llamarec.data.source import CLOCK
from llamarec.data.tables.parts import Part, TableOptions, check_has_names
from llamarec.data.time_columns import MICROSECONDS
from llamarec.errors import DataError
from llamarec.vocabulary import TIMESTAMP

# Larger whole numbers are not all floating numbers: those beyond may have lost digits.
_EXACT: Final[dict[type[pl.DataType], int]] = {pl.Float32: 24, pl.Float64: 53}
"""By type, how many bits of a whole number it keeps."""
_ROWS_AT_ONCE: Final = 250_000
_MAGIC: Final = b"PAR1"


def parquet_part(path: Path, options: TableOptions) -> Part:
    """A part that is a Parquet file; one in an archive is read into memory.

    Raises:
        ConfigError: --columns was given, which is for tables without names.
        DataError: it cannot be read.
    """
    check_has_names(path, options, "Parquet")
    with _reading(path):
        schema = pl.scan_parquet(_source(path), glob=False).collect_schema()

    def read(
        columns: Sequence[str], required: Sequence[str], bad: BadLines, each: EachBlock, max_rows: int | None
    ) -> pl.DataFrame:
        frames, number = list[pl.DataFrame](), 0
        with _reading(path):
            every = pl.scan_parquet(_source(path), glob=False)
            num_rows = int(every.select(pl.len()).collect().item())
        num_rows = num_rows if max_rows is None else min(num_rows, max_rows)
        while number < num_rows or not frames:
            end = min(number + _ROWS_AT_ONCE, num_rows)
            with _reading(path):
                block = every.slice(number, end - number).select(columns).collect()
            # A block may have no columns of its own: names of folders are columns too.
            numbers = pl.int_range(number + 1, end + 1, dtype=pl.Int64, eager=True).alias(LINE)
            frames.append(each(block.with_columns(numbers)))
            number = end
        return pl.concat(frames)

    types = {name: "whole number" if kind.is_integer() else str(kind) for name, kind in schema.items()}
    return Part(path=path, names=tuple(schema), read=read, unit="row", types=types)


def as_text(rows: pl.DataFrame, name: str, where: str, flag: str) -> pl.Series:
    """A column as text, keys without the ".0" of floating numbers.

    Args:
        rows: With the column.
        name: The column (USER, ITEM, ...).
        where: Table and its own name of the column, for an error.
        flag: That names the column.

    Raises:
        DataError: its type holds neither keys nor times nor titles.
    """
    column, kind = rows[name], rows.schema[name]
    if isinstance(kind, pl.Datetime | pl.Date):
        # Decimal seconds, which no unit can be mistaken for.
        microseconds = column.cast(pl.Datetime("us")).dt.epoch("us")
        fraction = (microseconds % MICROSECONDS).cast(pl.String).str.pad_start(6, "0")
        return ((microseconds // MICROSECONDS).cast(pl.String) + "." + fraction).alias(name)
    if isinstance(kind, pl.Time) and name == CLOCK:
        return column.dt.to_string("%H:%M:%S%.f").alias(name)

    is_key = name != TIMESTAMP
    if kind == pl.Float32 or (is_key and kind == pl.Float64):
        _check_is_exact(column, where, "keys" if is_key else "times")
    if is_key and (kind.is_float() or isinstance(kind, pl.Decimal)):
        return _without_zeros(column, where)

    is_text = kind in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null, pl.Binary)
    problem = f"its type is {kind}"
    if is_text or kind.is_numeric():
        try:
            return column.cast(pl.String)
        except POLARS_ERRORS:
            problem = "bytes that are no text in UTF-8"
    raise DataError(
        f"{where} cannot be the {name}",
        expected="a date with its time of day, or a number" if name == TIMESTAMP else "text or a number",
        found=problem,
        hint=f"{flag} NAME, or write the table with this column as text",
    )


def _without_zeros(column: pl.Series, where: str) -> pl.Series:
    """Numbers with decimals as text; whole ones as such, since a missing key makes a column of keys floating.

    Each value is looked at alone: blocks of one column must not differ.
    """
    is_whole = (column % 1 == 0).fill_null(False)
    whole = column.set(~is_whole, None).cast(pl.Int128).cast(pl.String)
    return column.cast(pl.String).zip_with(~is_whole, whole)


def _check_is_exact(column: pl.Series, where: str, what: str) -> None:
    """Refuses floating numbers that may stand for several whole ones.

    Raises:
        DataError: some do.
    """
    bits = _EXACT[column.dtype.base_type()]
    if bool(((column % 1 == 0) & (column.abs() >= 2**bits)).any()):
        size = f"floating numbers of {32 if bits < 32 else 64} bits beyond 2**{bits}"
        raise DataError(
            f"{where}: {what} are {size}, which have lost their last digits",
            expected="whole numbers or text",
            hint="write the table anew, from its source, with this column as text or Int64",
        )


def _source(path: Path) -> Path | io.BytesIO:
    if real_file(path) == path:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                return path
    with reading(path, open_binary) as content:
        return io.BytesIO(content.read())


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except POLARS_ERRORS as error:
        raise DataError(f"{path}: cannot be read as Parquet", found=str(error)) from error
