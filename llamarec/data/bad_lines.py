"""Malformed lines, counted or refused; and where the reading of interactions ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import polars as pl

from llamarec.errors import DataError

_MAX_LISTED: Final = 20
_LONGEST_SHOWN: Final = 120
_FEW: Final = 0.1
"""Share of lines up to which skipping the malformed ones is advised."""


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


@dataclass(frozen=True)
class _Refused:
    """A malformed line; `unit` is what it is to a person."""

    problem: str
    expected: str | None
    line: str
    unit: str

    def error(self, num_bad: int = 1, num_lines: int = 0) -> DataError:
        """The error, which says how many of the lines that were read with it are malformed, too."""
        line, unit = self.line, self.unit
        shown = line if len(line) <= _LONGEST_SHOWN else line[: _LONGEST_SHOWN - 3] + "..."
        found = [repr(shown)] if line else []
        hint = f"fix the {unit}, or skip malformed {unit}s: --on_bad_line skip"

        if num_bad > 1:
            found.append(f"{num_bad:,} malformed {unit}s among {num_lines:,}")
        if num_bad > _FEW * num_lines > 0:
            hint = f"correct the table: --on_bad_line skip would leave out {num_bad:,} of these {num_lines:,} {unit}s"
        return DataError(self.problem, expected=self.expected, found=found or None, hint=hint)


@dataclass
class _Together:
    """The first malformed line of those that are read together, and how many there are."""

    first: _Refused | None = None
    num_bad: int = 0


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
    _together: _Together | None = field(default=None, init=False, repr=False)

    @contextmanager
    def among(self, num_lines: int) -> Iterator[None]:
        """Lines that are read together: the first malformed one is refused after the last, with how many others are.

        Whether to skip them depends on their number.

        Args:
            num_lines: How many lines there are.

        Raises:
            DataError: one was malformed, and the mode is "stop".
        """
        self._together = together = _Together()
        try:
            yield
        except DataError:
            if together.first is None:
                raise
        finally:
            self._together = None
        if together.first is not None:
            raise together.first.error(together.num_bad, num_lines)

    def add(
        self, path: Path, number: int, reason: str, line: str, *, expected: str | None = None, unit: str = "line"
    ) -> None:
        """Counts a malformed line (or a row, as `unit` says).

        Raises:
            DataError: the mode is "stop", unless other lines are read with this one (`among`).
        """
        if self.mode == "stop":
            refused = _Refused(f"{path}, {unit} {number}: {reason}", expected, line, unit)
            if self._together is None:
                raise refused.error()
            self._together.first = self._together.first or refused
            self._together.num_bad += 1
            return

        self.count += 1
        if len(self.listed) < _MAX_LISTED:
            self.listed.append(f"{path.name}, {unit} {number}: {reason}")
