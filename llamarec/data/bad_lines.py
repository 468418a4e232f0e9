"""Malformed lines, counted or refused; and where the reading of interactions ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from llamarec.errors import DataError

_MAX_LISTED = 20


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
