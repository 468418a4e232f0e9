"""Parquet files are written as every other file is: what the system says of a fault is what a user reads."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import polars as pl
import pytest

import llamarec
from llamarec.data.parquet import write_parquet

PACKAGE = Path(llamarec.__file__).parent
FRAME = pl.DataFrame({"user": [f"u{number}" for number in range(50_000)]})
# Into memory, and here.
WRITERS = {"data/parquet.py", "retriever/stored_tables.py"}


def test_the_bytes_are_those_of_polars(tmp_path: Path) -> None:
    write_parquet(FRAME, tmp_path / "ours", statistics=False)
    FRAME.write_parquet(tmp_path / "theirs", compression="zstd", statistics=False)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_called_so() -> None:
    with pytest.raises(OSError, match="/dev/full") as error:
        write_parquet(FRAME, Path("/dev/full"))
    assert error.value.errno == errno.ENOSPC


def test_nothing_else_lets_polars_write_a_file() -> None:
    writes = re.compile(r"\.(write|sink)_(parquet|csv|ndjson|ipc)\(")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if writes.search(path.read_text(encoding="utf-8"))
    }
    assert found == WRITERS
