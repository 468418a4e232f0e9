"""Workbooks as people have them: cells as they are typed, or a refusal that names the sheet."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError, DataError
from tests.data.cases import DAYS, EXPECTED, ROWS, zipped

pytest.importorskip("fastexcel", reason="the extra excel is not installed")
xlsxwriter = pytest.importorskip("xlsxwriter", reason="the extra dev is not installed")

_START = datetime.datetime(2020, 1, 1, 10, 30, 15)
COLUMNS: dict[str, list[object]] = {
    "user": [row["user"] for row in ROWS],
    "item": [int(row["item"][1:]) + 10 for row in ROWS],
    "date": [_START + datetime.timedelta(days=day) for day in DAYS],
    "title": [row["title"] for row in ROWS],
}


def _write(path: Path, sheets: Mapping[str, Sequence[Sequence[object]]], hidden: Sequence[str] = ()) -> Path:
    options = {"default_date_format": "yyyy-mm-dd hh:mm:ss"}
    with xlsxwriter.Workbook(path, options) as book:
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
            if name in hidden:
                sheet.hide()
    return path


def _rows(**columns: list[object]) -> list[list[object]]:
    every = {**COLUMNS, **columns}
    return [list(every), *map(list, zip(*every.values(), strict=True))]


def _prepare(path: Path, code: str = "", **options: Any) -> PreparedData:
    return prepare(DataConfig(code or str(path), experiment_root=str(path.parent / "experiments"), **options))


def _check(data: PreparedData, key: Callable[[int], str] = lambda item: str(item + 10)) -> None:
    found = {user: [data.items[item] for item in data.sequences.whole(n)] for n, user in enumerate(data.users)}
    assert found == {user: [key(int(item[1:])) for item in items] for user, items in EXPECTED.items()}


def test_whole_numbers_are_keys_and_dates_keep_their_time_of_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _prepare(_write(tmp_path / "shop.xlsx", {"Orders": _rows()}))

    _check(data)
    assert data.dataset_code == "shop"
    assert data.sequences.timestamps[0] == _START.replace(tzinfo=datetime.UTC).timestamp()
    assert "user=user, item=item, timestamp=date, title=title" in capsys.readouterr().out


def test_zeros_before_a_key_stay(tmp_path: Path) -> None:
    keys: list[object] = [f"00{item}" for item in COLUMNS["item"]]
    _check(_prepare(_write(tmp_path / "shop.xlsx", {"Orders": _rows(item=keys)})), lambda item: f"00{item + 10}")


def test_numbers_and_text_in_one_column(tmp_path: Path) -> None:
    keys: list[object] = [item if item != 12 else "12" for item in COLUMNS["item"]]
    _check(_prepare(_write(tmp_path / "shop.xlsx", {"Orders": _rows(item=keys)})))


def test_a_date_and_a_clock_in_cells(tmp_path: Path) -> None:
    days: list[object] = [datetime.date(2020, 1, 1)] * len(ROWS)
    clocks: list[object] = [datetime.time(8 + day, 5) for day in DAYS]
    rows = _rows(date=days, time=clocks)
    _check(_prepare(_write(tmp_path / "shop.xlsx", {"Orders": rows})))


def test_blank_rows_and_columns_before_and_between(tmp_path: Path) -> None:
    rows = [["", *row] for row in _rows()]
    path = _write(tmp_path / "shop.xlsx", {"Orders": [[], [], rows[0], [], *rows[1:]]})
    _check(_prepare(path))


def test_several_sheets_are_named(tmp_path: Path) -> None:
    sheets: dict[str, list[list[object]]] = {
        "Orders": _rows(),
        "Items": [["item", "title"], [10, "Ten"]],
        "Notes": [["hello"]],
    }
    path = _write(tmp_path / "shop.xlsx", sheets)

    with pytest.raises(ConfigError, match=r"(?s)several sheets.*'Orders', 'Items'.*--dataset_code .*shop\.xlsx/Orders"):
        _prepare(path)
    data = _prepare(path, f"{path}/Orders")
    _check(data)
    assert data.dataset_code == "shop"
    with pytest.raises(ConfigError, match=r"(?s)no sheet 'Order'.*'Orders', 'Items', 'Notes'"):
        _prepare(path, f"{path}/Order")


def test_the_only_table_is_taken(tmp_path: Path) -> None:
    sheets: dict[str, list[list[object]]] = {"Notes": [["hello"]], "Orders": _rows(), "Hidden": _rows()}
    _check(_prepare(_write(tmp_path / "shop.xlsx", sheets, hidden=["Hidden"])))


def test_titles_from_another_sheet(tmp_path: Path) -> None:
    orders = [row[:3] for row in _rows()]
    items: list[list[object]] = [["item", "title"], *([item + 10, f"Thing {item}"] for item in range(6))]
    path = _write(tmp_path / "shop.xlsx", {"Orders": orders, "Items": items})
    _check(_prepare(path, f"{path}/Orders", items_file=f"{path}/Items"))


def test_a_workbook_in_an_archive(tmp_path: Path) -> None:
    book = _write(tmp_path / "book.xlsx", {"Orders": _rows()})
    path = tmp_path / "shop.zip"
    path.write_bytes(zipped({"a/book.xlsx": book.read_bytes()}))
    _check(_prepare(path))


def test_rows_have_the_numbers_of_the_sheet(tmp_path: Path) -> None:
    rows = _rows()
    rows[4][0] = None
    with pytest.raises(DataError, match=r"shop\.xlsx, row 7: no value for user"):
        _prepare(_write(tmp_path / "shop.xlsx", {"Orders": [[], [], *rows]}))


def test_numbers_that_lost_their_last_digits_are_refused(tmp_path: Path) -> None:
    keys: list[object] = [1234567890123456789 + int(str(item)) for item in COLUMNS["item"]]
    with pytest.raises(DataError, match=r"(?s)column 'item': numbers of more than 15 digits.*as text"):
        _prepare(_write(tmp_path / "shop.xlsx", {"Orders": _rows(item=keys)}))
    as_text: list[object] = list(map(str, keys))
    _prepare(_write(tmp_path / "long.xlsx", {"Orders": _rows(item=as_text)}))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"PK\x03\x04", r"cannot be read as a spreadsheet"), (b"", r"cannot be read as a spreadsheet")],
)
def test_what_is_no_workbook_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "shop.xlsx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        _prepare(path)


def test_an_empty_sheet_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the sheet 'Orders' is empty"):
        _prepare(_write(tmp_path / "shop.xlsx", {"Orders": []}))


def test_the_extra_is_named_where_it_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "shop.xlsx", {"Orders": _rows()})
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    with pytest.raises(ConfigError, match=r'(?s)fastexcel.*pip install "llamarec\[excel\]".*save the sheet as CSV'):
        _prepare(path)


@pytest.mark.parametrize("name", ["shop.xls", "shop.ods"])
def test_other_spreadsheets_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"save it as \.xlsx or CSV"):
        _prepare(tmp_path / name)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ([["Orders of 2020"], []], r"(?s)neither a header nor a record.*row 3: user, item, date, title.*before row 3"),
        ([["u1", 17, _START, "Thing"]], "(?s)neither a header nor a record.*row 2: user"),
    ],
)
def test_rows_before_the_header_are_said(
    before: list[list[object]], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = _write(tmp_path / "shop.xlsx", {"Orders": [*before, *_rows()]})
    with pytest.raises(DataError, match=said):
        _prepare(path)
    assert "dtype" not in capfd.readouterr().err


def test_a_sheet_without_a_header_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)first row looks like data.*insert a row with the names of columns"):
        _prepare(_write(tmp_path / "shop.xlsx", {"Orders": _rows()[1:]}))


def test_a_sheet_of_nearly_that_name_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "shop.xlsx", {"My orders": _rows(), "Notes": _rows()})
    with pytest.raises(ConfigError, match=r"(?s)no sheet 'my orders'.*--dataset_code '.*shop\.xlsx/My orders'"):
        _prepare(path, f"{path}/my orders")
