"""Items without a title: dropped, or named by their keys where that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import load_prepared
from llamarec.errors import ConfigError, DataError

ROWS = [f"u{u},i{i},{i}" for u in range(6) for i in range(6)]


def _config(table: Path, **options: str) -> DataConfig:
    return DataConfig(str(table), experiment_root=str(table.parent / "experiments"), **options)  # type: ignore[arg-type]


def _table(folder: Path, rows: list[str], header: str) -> Path:
    table = folder / "shop.csv"
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return table


def test_keys_are_titles_of_the_untitled_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table(tmp_path, [f"{row},{'' if ',i3,' in row else 'Cup'}" for row in ROWS], "user,item,timestamp,title")
    assert prepare(_config(table)).num_items == 5

    data = prepare(_config(table, untitled_items="key"))
    assert data.titles == ["", "Cup", "Cup", "Cup", "i3", "Cup", "Cup"]
    assert data.manifest["keys_as_titles"] == 1
    assert data.manifest["raw"]["interactions_without_title"] == 0
    assert "titles       1 of 6 items have none: the language model sees their keys" in capsys.readouterr().out


def test_a_table_without_titles_is_taken_on_request_alone(tmp_path: Path) -> None:
    table = _table(tmp_path, ROWS, "user,item,timestamp")
    with pytest.raises(ConfigError, match=r"no column looks like the title.*--untitled_items key"):
        prepare(_config(table))

    data = prepare(_config(table, untitled_items="key"))
    assert data.titles[1:] == data.items[1:] == [f"i{i}" for i in range(6)]
    assert "title" not in data.manifest["columns"]
    with pytest.raises(ConfigError, match="no column 'name'"):
        prepare(_config(table, untitled_items="key", title_column="name"))


def test_a_table_of_items_may_lack_titles_too(tmp_path: Path) -> None:
    table, items = _table(tmp_path, ROWS, "user,item,timestamp"), tmp_path / "items.csv"
    items.write_text("item,price\ni1,3\n", encoding="utf-8")
    assert prepare(_config(table, items_file=str(items), untitled_items="key")).titles[1] == "i0"


def test_where_no_item_has_a_title_the_flag_is_named(tmp_path: Path) -> None:
    table = _table(tmp_path, [f"{row}," for row in ROWS], "user,item,timestamp,title")
    with pytest.raises(DataError, match=r"(?s)no item has a title.*--untitled_items key"):
        prepare(_config(table))
    assert prepare(_config(table, untitled_items="key")).num_items == 6


def test_where_too_few_are_titled_the_flag_is_named(tmp_path: Path) -> None:
    table = _table(tmp_path, [f"{row},{'Cup' if ',i3,' in row else ''}" for row in ROWS], "user,item,timestamp,title")
    with pytest.raises(DataError, match="--untitled_items key keeps 30 more"):
        prepare(_config(table))


def test_other_keys_in_the_titles_are_no_reason_for_keys_as_titles(tmp_path: Path) -> None:
    table, items = _table(tmp_path, ROWS, "user,item,timestamp"), tmp_path / "items.csv"
    items.write_text("item,title\nitem 1,Cup\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"(?s)the same item keys.*where these are the right files"):
        prepare(_config(table, items_file=str(items)))


def test_a_set_of_before_the_flag_is_taken_again(tmp_path: Path) -> None:
    config = _config(_table(tmp_path, [f"{row},Cup" for row in ROWS], "user,item,timestamp,title"))
    manifest = prepare(config).folder / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    assert '"untitled_items": "drop"' in text
    old = text.replace('"untitled_items": "drop",', "").replace('"keys_as_titles": 0,', "")
    manifest.write_text(old, encoding="utf-8")
    time = manifest.stat().st_mtime_ns

    prepare(config)
    assert manifest.stat().st_mtime_ns == time
    assert load_prepared(manifest.parent).titles[1] == "Cup"


def test_retailrocket_is_a_table_without_titles(tmp_path: Path) -> None:
    rows = [f"{1_433_221_332_117 + 1_000 * i},{257_597 + u},view,{355_908 + i}," for u in range(6) for i in range(6)]
    header = "timestamp,visitorid,event,itemid,transactionid"
    events = tmp_path / "events.csv"
    events.write_text(
        "\n".join([header, *rows, "1433221999827,257597,transaction,355908,4000"]) + "\n", encoding="utf-8"
    )

    data = prepare(_config(events, untitled_items="key"))
    assert (data.num_users, data.num_items, data.num_interactions) == (6, 6, 37)
    assert data.titles[1] == data.items[1] == "355908"
    assert data.manifest["columns"] == {"user": "visitorid", "item": "itemid", "timestamp": "timestamp"}
