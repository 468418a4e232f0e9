"""Headers and columns as tables have them: the right column, or a refusal that names the flags."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.errors import ConfigError, DataError

NUM_USERS, NUM_ITEMS = 6, 12
ROWS = [(user, item) for user in range(NUM_USERS) for item in range(NUM_ITEMS)]
CELLS: dict[str, Callable[[int, int], str | int]] = {
    "user": lambda user, item: f"u{user}",
    "item": lambda user, item: f"i{item}",
    "time": lambda user, item: 1_577_836_800 + item,
    "title": lambda user, item: f"Thing {item}",
}


def _write(path: Path, header: str, cells: str = "user,item,time,title", before: str = "", ends: str = "") -> Path:
    lines = [header, *(",".join(_cell(name, *row) for name in cells.split(",")) + ends for row in ROWS)]
    path.write_text(before + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def _cell(name: str, user: int, item: int) -> str:
    others = {
        "customer": f"Person {user}",
        "review": f"Review {user} of {item}",
        "variant": f"i{item}-{user % 2}",
        "same": "Unknown",
        "row": str(user * NUM_ITEMS + item),
        "day": "2020-01-05",
        "empty": "",
    }
    return str(CELLS[name](user, item)) if name in CELLS else others[name]


def _prepare(path: Path, **options: str) -> dict[str, str]:
    data = prepare(DataConfig(str(path), experiment_root=str(path.parent / "experiments"), **options))  # type: ignore[arg-type]
    assert (data.num_users, data.num_items) == (NUM_USERS, NUM_ITEMS)
    assert data.titles[1:] == [f"Thing {item}" for item in range(NUM_ITEMS)]
    return data.manifest["columns"]


# ---- Headers ----


@pytest.mark.parametrize(
    ("header", "cells", "before", "ends"),
    [
        (",user,item,time,title", "row,user,item,time,title", "", ""),
        ("user,item,time,title,", "user,item,time,title", "", ","),
        ("user,item,time,title", "user,item,time,title", "sep=,\n", ""),
        ("user,item,time,title", "user,item,time,title", "\n\n", ""),
        ('"user","item","time","title"', "user,item,time,title", "", ""),
        ("user,item,time,title,note,note", "user,item,time,title,row,same", "", ""),
        ('user,item,time,title,"a note\nof two lines, and more"', "user,item,time,title,row", "", ""),
        ("User , Item , Time , Title", "user,item,time,title", "", ""),
    ],
    ids=["pandas' index", "trailing comma", "sep=", "blank lines", "quotes", "two of one name", "line break", "spaces"],
)
def test_headers(tmp_path: Path, header: str, cells: str, before: str, ends: str) -> None:
    columns = _prepare(_write(tmp_path / "shop.csv", header, cells, before, ends))
    assert [column.lower() for column in columns.values()] == ["user", "item", "time", "title"]


def test_atomic_files_of_recbole(tmp_path: Path) -> None:
    path = tmp_path / "shop.inter"
    rows = "".join(f"u{user}\ti{item}\t5\t{1_577_836_800 + item}\n" for user, item in ROWS)
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows, encoding="utf-8")
    items = tmp_path / "shop.item"
    titles = "".join(f"i{item}\tThing {item}\ta b\n" for item in range(NUM_ITEMS))
    items.write_text("item_id:token\ttitle:token_seq\tgenre:token_seq\n" + titles, encoding="utf-8")

    assert _prepare(path, items_file=str(items)) == {
        "user": "user_id",
        "item": "item_id",
        "timestamp": "timestamp",
        "title": "title",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"user,item,time,title\r" + b"u,i,1,T\r", "end with a carriage return alone"),
        ("user,item,time,title\n".encode("utf-16-le"), "UTF-16 without its mark"),
        (b"\n\n\n", "the file is empty"),
        (b"\x03\x04\0\0\0", "this is no text"),
    ],
    ids=["CR", "UTF-16", "blank", "binary"],
)
def test_what_is_no_table_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "shop.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        _prepare(path)


def test_a_field_that_the_first_json_record_lacks(tmp_path: Path) -> None:
    path = tmp_path / "shop.jsonl"
    records = [{name: cell(*row) for name, cell in CELLS.items()} for row in ROWS]
    lines = [
        json.dumps({name: one for name, one in record.items() if number or name != "title"})
        for number, record in enumerate(records)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _prepare(path)


# ---- Which column ----


@pytest.mark.parametrize(
    ("header", "cells", "said"),
    [
        (
            "user,asin,parent_asin,time,title",
            "user,variant,item,time,title",
            r"--item_column asin or --item_column parent",
        ),
        (
            "user,customer_id,item,time,title",
            "user,row,item,time,title",
            r"--user_column user or --user_column customer_id",
        ),
        (
            "user,item,date,time,title",
            "user,item,day,time,title",
            r"--timestamp_column date or --timestamp_column time",
        ),
        ("user,item,time,title,title", "user,item,time,title,same", r"2 columns are called 'title': rename"),
        ("user,item,time,", "user,item,time,row", r"no column looks like the title: --title_column NAME"),
    ],
    ids=["two items", "two users", "date and time", "two of one name", "no name"],
)
def test_several_candidates_are_refused(tmp_path: Path, header: str, cells: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _prepare(_write(tmp_path / "shop.csv", header, cells))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("user,item,time,customer", r"(?s)100% of the items have several titles.*Person 0.*--title_column NAME"),
        ("user,item,time,review", r"(?s)100% of the items have several titles.*--items_file FILE"),
        ("user,item,time,same", r"(?s)12 of 12 items have the title 'Unknown'"),
    ],
)
def test_a_name_that_is_not_the_items_is_refused(tmp_path: Path, cells: str, said: str) -> None:
    path = _write(tmp_path / "shop.csv", "user,item,time,name", cells)
    with pytest.raises(DataError, match=said):
        _prepare(path)

    # Who names the column is taken at their word.
    config = DataConfig(str(path), experiment_root=str(tmp_path / "e"), title_column="name")
    assert prepare(config).num_items == NUM_ITEMS


def test_the_key_that_both_tables_have_is_the_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(tmp_path / "shop.csv", "user,asin,parent_asin,time", "user,variant,item,time")
    items = tmp_path / "items.csv"
    items.write_text(
        "parent_asin,title\n" + "".join(f"i{item},Thing {item}\n" for item in range(NUM_ITEMS)), encoding="utf-8"
    )

    assert _prepare(path, items_file=str(items))["item"] == "parent_asin"
    assert "columns      user=user, item=parent_asin, timestamp=time, title=title" in capsys.readouterr().out


# ---- Keys that are none ----


@pytest.mark.parametrize("nothing", ["nan", "NULL", "None", "<NA>", "\\N", "  ", ""])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_what_stands_for_no_value_is_no_key_and_no_title(tmp_path: Path, nothing: str, ending: str) -> None:
    path = tmp_path / f"shop.{ending}"
    records = [{name: str(cell(*row)) for name, cell in CELLS.items()} for row in ROWS]
    table = pl.DataFrame([*records, {**records[0], "user": nothing}])
    if ending == "csv":
        table.write_csv(path)
    elif ending == "jsonl":
        table.write_ndjson(path)
    else:
        table.write_parquet(path)

    with pytest.raises(
        DataError, match=rf"(line|row) {len(records) + (2 if ending == 'csv' else 1)}: no value for user"
    ):
        _prepare(path)
    _prepare(path, on_bad_line="skip")
