"""Parquet files, written through Python: where polars writes by itself, a full disk is "invalid thrift"."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any, cast

import polars as pl


def write_parquet(frame: pl.DataFrame, path: Path, *, statistics: bool = True) -> None:
    """Writes a table.

    Args:
        frame: The table.
        path: A new file, or one to be replaced.
        statistics: Whether it says what its columns range over.

    Raises:
        OSError: the disk is full or the file cannot be written; names the file.
    """
    with path.open("wb", buffering=0) as file:
        through = _Through(file, path)
        try:
            frame.write_parquet(cast(IO[bytes], through), compression="zstd", statistics=statistics)
        except BaseException:
            if through.error is not None:
                raise through.error from None
            raise


class _Through(io.RawIOBase):
    """Keeps what the system says of a write, which does not come back through polars."""

    def __init__(self, file: io.RawIOBase, path: Path) -> None:
        super().__init__()
        self._file, self._path = file, path
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        left, written = memoryview(data).cast("B"), 0
        try:
            # The system may take a part.
            while written < len(left):
                written += self._file.write(left[written:]) or 0
        except OSError as error:
            error.filename = error.filename or str(self._path)
            self.error = error
            raise
        return written
