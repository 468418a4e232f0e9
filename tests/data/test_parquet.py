"""Parquet tables with the types that people's tools write: read, or refused with the column and its type."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import polars as pl
import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.errors import DataError

NUM_USERS, NUM_ITEMS = 6, 8
_START = datetime(2020, 1, 1, tzinfo=UTC)
COLUMNS = {
    "user": [user for user in range(NUM_USERS) for _ in range(NUM_ITEMS)],
    "item": [f"i{item}" for _ in range(NUM_USERS) for item in range(NUM_ITEMS)],
    "time": [_START + timedelta(days=item) for _ in range(NUM_USERS) for item in range(NUM_ITEMS)],
    "title": [f"Thing {item}" for _ in range(NUM_USERS) for item in range(NUM_ITEMS)],
}


def _prepare(table: pl.DataFrame, folder: Path) -> PreparedData:
    path = folder / "shop.parquet"
    table.write_parquet(path)
    return prepare(DataConfig(str(path), experiment_root=str(folder / "experiments")))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("user", pl.Int8),
        ("user", pl.UInt64),
        ("user", pl.String),
        ("item", pl.Categorical),
        ("item", pl.Binary),
        ("title", pl.Binary),
        ("time", pl.Date),
        ("time", pl.Datetime("ms")),
        ("time", pl.Datetime("ns", "Asia/Tokyo")),
    ],
)
def test_types_that_hold_keys_and_times(tmp_path: Path, column: str, kind: pl.DataType) -> None:
    data = _prepare(pl.DataFrame(COLUMNS).with_columns(pl.col(column).cast(kind)), tmp_path)

    assert (data.num_users, data.num_items) == (NUM_USERS, NUM_ITEMS)
    assert [data.items[item] for item in data.sequences.whole(0)] == [f"i{item}" for item in range(NUM_ITEMS)]
    assert data.sequences.timestamps[0] == _START.timestamp()


def test_a_row_for_each_user_with_lists(tmp_path: Path) -> None:
    flat = _prepare(pl.DataFrame(COLUMNS), tmp_path)
    (tmp_path / "lists").mkdir()
    lists = pl.DataFrame(COLUMNS).group_by("user", maintain_order=True).agg("item", "time", "title")
    assert _prepare(lists, tmp_path / "lists").fingerprint == flat.fingerprint


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("time", time(10, 30), r"column 'time' cannot be the timestamp.*a date with its time of day.*its type is Time"),
        ("time", timedelta(hours=1), r"column 'time' cannot be the timestamp.*its type is Duration"),
        ("item", {"id": 1}, r"column 'item' cannot be the item.*its type is Struct.*--item_column NAME"),
        ("item", date(2020, 1, 1), None),
        ("title", b"\xff\xfe", r"column 'title' cannot be the title.*no text in UTF-8"),
        ("user", [[1], [2]], r"column 'user' cannot be the user.*its type is List"),
    ],
)
def test_types_that_do_not_are_named(tmp_path: Path, column: str, value: object, said: str | None) -> None:
    table = pl.DataFrame(COLUMNS).with_columns(pl.Series(column, [value] * (NUM_USERS * NUM_ITEMS)))
    if said is None:
        # Dates are keys like others; one alone has no core.
        with pytest.raises(DataError, match=r"(?s)k-core"):
            _prepare(table.with_columns(user=pl.Series(range(table.height))), tmp_path)
        return
    with pytest.raises(DataError, match=f"(?s){said}"):
        _prepare(table, tmp_path)


def test_lists_of_other_lengths_are_named(tmp_path: Path) -> None:
    table = pl.DataFrame({"user": [1], "item": [["a", "b"]], "time": [[1]], "title": [["A", "B"]]})
    with pytest.raises(DataError, match="row 1: its lists differ in length: 2 in item and 1 in timestamp"):
        _prepare(table, tmp_path)


def test_floating_keys_are_read_alike_in_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole ones among others are written alike wherever a block ends."""
    table = pl.DataFrame(COLUMNS).with_columns(pl.col("user").cast(pl.Float64) / 2)
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    one = _prepare(table, tmp_path / "one")
    monkeypatch.setattr("llamarec.data.tables.parquet._ROWS_AT_ONCE", 1)
    assert one.users == ["0", "0.5", "1", "1.5", "2", "2.5"]
    assert _prepare(table, tmp_path / "many").fingerprint == one.fingerprint
