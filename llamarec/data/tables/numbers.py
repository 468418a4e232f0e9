"""Columns of numbers, and what is said of a row that has none."""

from __future__ import annotations

from contextlib import AbstractContextManager

import polars as pl

from llamarec.data.lines import LINE, BadLines
from llamarec.data.source import ORDER
from llamarec.data.tables.columns import flag_of
from llamarec.data.tables.rows import PART, Table
from llamarec.errors import DataError


class RowNumbers:
    """Reads numbers of rows; a row without one is malformed.

    Args:
        table: That the rows come from.
        bad: What happens to malformed rows.
    """

    def __init__(self, table: Table, bad: BadLines) -> None:
        self.table, self._bad = table, bad

    def read(self, rows: pl.DataFrame, name: str) -> pl.Series:
        """A column as finite numbers, as whole ones where all are; null where a row has none.

        Raises:
            DataError: no row has one.
        """
        text = rows[name].str.strip_chars()
        numbers = text.cast(pl.Int64, strict=False)
        if name != ORDER or numbers.null_count():
            numbers = text.cast(pl.Float64, strict=False)
            numbers = numbers.set(~numbers.is_finite(), None)

        if len(text) and numbers.null_count() == len(text):
            raise DataError(
                f"{self.where(name)}: no numbers",
                expected="a number in each row",
                found=", ".join(map(repr, text.unique(maintain_order=True).head(3).to_list())),
                hint=f"{flag_of(name)} NAME",
            )
        with self.among(rows):
            for row in numbers.is_null().arg_true().to_list():
                self.add(rows, row, f"{name} is not a number: {rows[name][row]!r}", rows[name][row], "a number")
        return numbers

    def among(self, rows: pl.DataFrame) -> AbstractContextManager[None]:
        """In it, the first malformed row is refused after the last, with how many others are."""
        return self._bad.among(rows.height)

    def where(self, name: str) -> str:
        """The table and its own name of a column, for an error."""
        return f"{self.table.where}, column {self.table.columns[name]!r}"

    def add(self, rows: pl.DataFrame, index: int, reason: str, text: str, expected: str) -> None:
        """Counts a malformed row.

        Raises:
            DataError: malformed rows stop the reading.
        """
        part = self.table.parts[rows[PART][index]]
        self._bad.add(part.path, rows[LINE][index], reason, text, expected=expected, unit=part.unit)
