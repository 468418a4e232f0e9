"""How lines become rows: what a format consists of, and the lines that it takes its records from."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import polars as pl

from llamarec.data.containers import open_bytes
from llamarec.data.text_encodings import decoded

Schema = dict[str, type[pl.DataType]]
KEY: Final = pl.Categorical
"""Type of a column of keys: a number in each row, and each text once."""
Row = dict[str, str | int | float | None]
Parse = Callable[["Lines"], Row | None]
"""One record from the lines; None for a blank line. Raises ValueError with the reason."""
Value = str | int | float | None
Take = Callable[["Lines"], Iterator[Sequence[Value]]]
"""Values of records in the order of the schema."""
TEXT_KINDS: Final = (pl.String, KEY)


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
        self._next, self._num_lines = first, len(self._waiting)
        self._end = first + self._num_lines
        self.number, self.taken = first, list[bytes]()

    def __len__(self) -> int:
        """How many lines the block has."""
        return self._num_lines

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
        return decoded(line, self._encoding)


def cast(name: str, text: str | None, kind: type[pl.DataType]) -> str | int | float | None:
    if not text:
        return None
    if kind in TEXT_KINDS:
        return text

    try:
        number = int(text) if kind == pl.Int64 else float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    except (ValueError, OverflowError):
        raise ValueError(f"{name} is not a number: {text!r}") from None
