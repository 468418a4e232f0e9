"""A sheet of a workbook, whose cells are read as text: numbers as they are typed, dates with their time of day."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl

from llamarec.data.containers import open_binary, reading, real_file
from llamarec.data.lines import LINE, BadLines, EachBlock
from llamarec.data.tables.endings import kind_of
from llamarec.data.tables.parts import Part, TableOptions, check_has_names
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


def sheet_part(path: Path, options: TableOptions) -> Part:
    """A sheet with a table: the one that the path names, else the only one.

    Args:
        path: Of the workbook, or of a sheet in it (shop.xlsx/Orders).
        options: How it is to be read.

    Raises:
        ConfigError: several sheets have a table, or --columns was given.
        DataError: it cannot be read.
    """
    book, named = _book_and_sheet(path)
    check_has_names(path, options, "a spreadsheet")
    reader = _open(book)
    with _reading(book):
        sheet = named or _only_sheet(reader, book, options.flag)
        if sheet not in reader.sheet_names:
            raise ConfigError(f"{options.flag} {path}: no sheet {sheet!r}", found=_named(reader.sheet_names))
        loaded = reader.load_sheet(sheet, header_row=None, skip_rows=0, dtypes="string")
        cells = loaded.to_polars()

    filled = cells.with_row_index(LINE, offset=1).filter(~pl.all_horizontal(pl.exclude(LINE).is_null()))
    if filled.is_empty():
        raise DataError(f"{path}: the sheet {sheet!r} is empty", expected="a first row with the column names")
    num_before, *first = filled.row(0)
    names = tuple((name or "").strip() for name in first)

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
    sheets = [reader.load_sheet(name, header_row=None, n_rows=1) for name in reader.sheet_names]
    filled = [sheet.name for sheet in sheets if sheet.width > 1 and sheet.visible == "visible"]
    if len(filled) > 1:
        raise ConfigError(
            f"{flag} {book}: several sheets have a table",
            found=_named(filled),
            hint=f"{flag} {book / filled[0]}",
        )
    return str(filled[0] if filled else reader.sheet_names[0])


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
