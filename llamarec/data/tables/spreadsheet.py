"""A sheet of a workbook, whose cells are read as text: numbers as they are typed, dates with their time of day."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl

from llamarec.command import typed
from llamarec.data.containers import open_binary, reading, real_file
from llamarec.data.lines import LINE, BadLines, EachBlock
from llamarec.data.tables.columns import is_known_name
from llamarec.data.tables.endings import kind_of
from llamarec.data.tables.parts import Part, TableOptions, check_has_names
from llamarec.data.tables.suggestions import VALUE
from llamarec.errors import ConfigError, DataError
from llamarec.requirements import install_line

if TYPE_CHECKING:
    from fastexcel import ExcelReader

_EXTRA: Final = "excel"
# A time of day is a day of 1899 to a spreadsheet.
_CLOCK: Final = r"^1899-12-3[01] "
# A spreadsheet keeps 15 digits of a number.
_EXACT: Final = 10**15
_MOST_SHEETS: Final = 10
_ROWS_LOOKED_AT: Final = 100


def sheet_part(path: Path, options: TableOptions, asked: Sequence[str]) -> Part:
    """A sheet with a table: the one that the path names, else the only one.

    Args:
        path: Of the workbook, or of a sheet in it (shop.xlsx/Orders).
        options: How it is to be read.
        asked: Names of columns that flags give.

    Raises:
        ConfigError: several sheets have a table, or --columns was given.
        DataError: it cannot be read, or its first row names no columns.
    """
    book, named = _book_and_sheet(path)
    check_has_names(path, options, "a spreadsheet")
    reader = _open(book)
    with _reading(book):
        sheet = named or _only_sheet(reader, book, options.flag)
        if sheet not in reader.sheet_names:
            raise _no_sheet(options.flag, path, book, reader.sheet_names)
        loaded = reader.load_sheet(sheet, header_row=None, skip_rows=0, dtypes="string")
        cells = loaded.to_polars()

    filled = cells.with_row_index(LINE, offset=1).filter(~pl.all_horizontal(pl.exclude(LINE).is_null()))
    if filled.is_empty():
        raise DataError(f"{path}: the sheet {sheet!r} is empty", expected="a first row with the column names")
    num_before, *first = filled.row(0)
    names = tuple((name or "").strip() for name in first)
    if not set(asked) & set(names):
        _check_is_header(names, filled.head(_ROWS_LOOKED_AT), f"{path}, sheet {sheet!r}")

    def read(
        columns: Sequence[str], required: Sequence[str], bad: BadLines, each: EachBlock, max_rows: int | None
    ) -> pl.DataFrame:
        numbers = {name: names.index(name) for name in columns}
        for name, number in numbers.items():
            with _reading(book):
                column = loaded.selected_columns[number].absolute_index
                _check_digits(reader, sheet, column, num_before, f"{path}, column {name!r}")

        chosen = (pl.col(cells.columns[number]).str.replace(_CLOCK, "").alias(name) for name, number in numbers.items())
        rows = filled.slice(1).select(pl.col(LINE).cast(pl.Int64), *chosen)
        return each(rows if max_rows is None else rows.head(max_rows))

    return Part(path=path, names=names, read=read, unit="row", form=f"sheet {sheet!r}")


def _book_and_sheet(path: Path) -> tuple[Path, str]:
    if kind_of(path.name) == "sheet":
        return path, ""
    return path.parent, path.name


def _open(book: Path) -> ExcelReader:
    try:
        import fastexcel
    except ImportError as error:
        raise ConfigError(
            f"{book}: spreadsheets need the package fastexcel",
            hint=[install_line(_EXTRA), "or save the sheet as CSV"],
        ) from error

    with _reading(book):
        if real_file(book) == book:
            return fastexcel.read_excel(book)
        with reading(book, open_binary) as file:
            return fastexcel.read_excel(file.read())


def _only_sheet(reader: ExcelReader, book: Path, flag: str) -> str:
    sheets = [reader.load_sheet(name, header_row=None, n_rows=1, dtypes="string") for name in reader.sheet_names]
    filled = [sheet.name for sheet in sheets if sheet.width > 1 and sheet.visible == "visible"]
    if len(filled) > 1:
        raise ConfigError(
            f"{flag} {book}: several sheets have a table",
            found=_named(filled),
            hint=f"{flag} {book / filled[0]}",
        )
    return str(filled[0] if filled else reader.sheet_names[0])


def _check_is_header(names: Sequence[str], rows: pl.DataFrame, where: str) -> None:
    """Refuses a first row of words about the table, or of data.

    Raises:
        DataError: it is such.
    """
    if any(map(is_known_name, names)):
        return
    for number, *cells in rows.iter_rows():
        if sum(is_known_name((cell or "").strip()) for cell in cells) > 1:
            raise DataError(
                f"{where}: its first row is neither a header nor a record",
                expected="the names of columns in the first row",
                found=[_row(names), f"row {number}: {_row(cells)}"],
                hint=f"remove the rows before row {number}",
            )
    if any(map(VALUE.fullmatch, names)):
        raise DataError(
            f"{where}: its first row looks like data, not like the names of columns",
            found=_row(names),
            hint=["insert a row with the names of columns", "if it is one: --user_column NAME --item_column NAME ..."],
        )


def _row(cells: Sequence[str | None]) -> str:
    return ", ".join(cell or "" for cell in cells)[:120]


def _no_sheet(flag: str, path: Path, book: Path, there: Sequence[str]) -> ConfigError:
    near = [name for name in there if name.strip().casefold() == path.name.strip().casefold()]
    near = near or difflib.get_close_matches(path.name, there, n=1) or list(there) * (len(there) == 1)
    hint = typed([flag, str(book / near[0])]) if near else None
    return ConfigError(f"{flag} {path}: no sheet {path.name!r}", found=_named(there), hint=hint)


def _check_digits(reader: ExcelReader, sheet: str, index: int, num_before: int, where: str) -> None:
    """Checks that a column of numbers has no more digits than a spreadsheet keeps.

    Raises:
        DataError: it has.
    """
    column = reader.load_sheet(sheet, header_row=None, skip_rows=num_before, use_columns=[index]).to_polars()
    values: pl.Series = column.to_series()
    if values.dtype.is_numeric() and bool((values.abs() >= _EXACT).any()):
        raise DataError(
            f"{where}: numbers of more than 15 digits, of which a spreadsheet keeps no more",
            expected="long keys as text",
            hint="export the table anew as CSV",
        )


def _named(sheets: Sequence[str]) -> str:
    more = len(sheets) - _MOST_SHEETS
    return ", ".join(map(repr, sheets[:_MOST_SHEETS])) + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def _reading(book: Path) -> Iterator[None]:
    import fastexcel

    try:
        yield
    except fastexcel.FastExcelError as error:
        # What follows its first line are the steps of the library.
        raise DataError(f"{book}: cannot be read as a spreadsheet", found=str(error).partition("\n")[0]) from error
