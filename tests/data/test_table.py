"""A user's own table, in the shapes in which people have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare, resolve_options
from llamarec.data.prepared import load_prepared
from llamarec.errors import ConfigError, DataError

ROWS = [
    {"userId": f"u{u}", "asin": f"i{i}", "date": f"2020-01-{i:02}", "name": f"Thing, {i}"}
    for u in range(1, 7)
    for i in range(1, 7)
]


def _config(path: Path, **options: str) -> DataConfig:
    return DataConfig(str(path), experiment_root=str(path.parent / "experiments"), **options)  # type: ignore[arg-type]


def _csv(path: Path, separator: str = ",", rows: list[dict[str, str]] = ROWS) -> Path:
    pl.DataFrame(rows).write_csv(path, separator=separator)
    return path


@pytest.mark.parametrize("name", ["shop.csv", "shop.tsv", "shop.jsonl", "shop.parquet"])
def test_each_format_gives_the_same_histories(tmp_path: Path, name: str) -> None:
    # A folder is a name, never a pattern.
    tmp_path = tmp_path / "mine [1]"
    tmp_path.mkdir()
    path = tmp_path / name
    if name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    elif name.endswith("parquet"):
        pl.DataFrame(ROWS).write_parquet(path)
    else:
        _csv(path, "\t" if name.endswith("tsv") else ",")
    data = prepare(_config(path))
    assert (data.dataset_code, data.num_users, data.num_items) == ("shop", 6, 6)
    assert data.titles[1] == "Thing, 1"
    assert data.sequences.timestamps[:2].tolist() == [1_577_836_800, 1_577_923_200]
    assert data.folder == tmp_path / "experiments" / "data" / "shop"


@pytest.mark.parametrize(
    "times",
    [
        [1_577_836_800 + 86_400 * i for i in range(6)],
        [1_577_836_800_000 + 86_400_000 * i for i in range(6)],
        [f"2020-01-0{i + 1}T00:00:00Z" for i in range(6)],
        [f"2020-01-0{i + 1} 00:00:00" for i in range(6)],
    ],
    ids=["seconds", "milliseconds", "ISO with zone", "ISO"],
)
def test_times_as_people_write_them(tmp_path: Path, times: list[object]) -> None:
    rows = [{**row, "date": str(times[index % 6])} for index, row in enumerate(ROWS)]
    data = prepare(_config(_csv(tmp_path / "shop.csv", rows=rows)))
    assert data.sequences.timestamps[:2].tolist() == [1_577_836_800, 1_577_923_200]


def test_titles_from_a_second_file(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "name"} for row in ROWS]
    items = _csv(tmp_path / "items.csv", rows=[{"asin": f"i{i}", "title": f"Second {i}"} for i in range(1, 7)])
    data = prepare(_config(_csv(tmp_path / "shop.csv", rows=rows), items_file=str(items)))
    assert data.titles[6] == "Second 6"


def test_named_columns_win_over_recognised_ones(tmp_path: Path) -> None:
    rows = [{**row, "kunde": row["userId"], "userId": "all the same"} for row in ROWS]
    data = prepare(_config(_csv(tmp_path / "shop.csv", rows=rows), user_column="kunde"))
    assert data.num_users == 6


def test_a_missing_column_names_flag_and_columns(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "name"} for row in ROWS]
    path = _csv(tmp_path / "shop.csv", rows=rows)
    with pytest.raises(ConfigError, match=r"(?s)title.*--title_column.*userId, asin, date"):
        prepare(_config(path))
    with pytest.raises(ConfigError, match=r"no column 'usr': --user_column userId"):
        prepare(_config(path, user_column="usr", title_column="asin"))


def test_a_bad_line_or_time_is_named(tmp_path: Path) -> None:
    path = _csv(tmp_path / "shop.csv")
    path.write_text(path.read_text(encoding="utf-8") + "u9,i9\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"shop\.csv, line 38: expected 4 fields"):
        prepare(_config(path))
    rows = [*ROWS, {**ROWS[0], "date": "yesterday"}]
    with pytest.raises(DataError, match=r"shop\.csv, line 38: not a time(?s:.*)'yesterday'(?s:.*)on_bad_line skip"):
        prepare(_config(_csv(tmp_path / "shop.csv", rows=rows)))
    pl.DataFrame(rows).write_parquet(tmp_path / "shop.parquet")
    with pytest.raises(DataError, match=r"shop\.parquet, row 37: not a time"):
        prepare(_config(tmp_path / "shop.parquet"))


def test_a_line_without_a_time_is_skipped_where_that_is_wanted(tmp_path: Path) -> None:
    path = _csv(tmp_path / "shop.csv", rows=[ROWS[0], {**ROWS[1], "date": "yesterday"}, *ROWS[1:]])
    lines = path.read_text(encoding="utf-8").splitlines()
    # A malformed and an empty line before it: the number is that of the file's line, not of what was read.
    path.write_text("\n".join([lines[0], "u9,i9", "", *lines[1:]]) + "\n", encoding="utf-8")
    data = prepare(_config(path, on_bad_line="skip"))
    assert data.num_interactions == len(ROWS)
    manifest = json.loads((data.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["bad_lines"]["count"] == 2
    assert [text.partition(":")[0] for text in manifest["bad_lines"]["listed"]] == [
        "shop.csv, line 2",
        "shop.csv, line 5",
    ]


@pytest.mark.parametrize("others", [["1559300000"], ["1559300000.5", "1559300001"]])
def test_among_dates_a_number_is_no_time_and_the_other_way_round(tmp_path: Path, others: list[str]) -> None:
    rows = [*ROWS, *({**ROWS[0], "date": one} for one in others)]
    with pytest.raises(DataError, match=r"line 38: not a time"):
        prepare(_config(_csv(tmp_path / "shop.csv", rows=rows)))
    numbers = [{**row, "date": str(1559300000 + n)} for n, row in enumerate(ROWS)]
    with pytest.raises(DataError, match=r"line 38: not a time(?s:.*)2019-05-31"):
        prepare(_config(_csv(tmp_path / "shop.csv", rows=[*numbers, {**ROWS[0], "date": "2019-05-31"}])))


@pytest.mark.parametrize("content", ["", "user,item,timestamp,title\n"])
def test_an_empty_table_is_said(tmp_path: Path, content: str) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"the file is empty|have no interactions"):
        prepare(_config(path))


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = _csv(tmp_path / "shop.csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert prepare(_config(path)).num_users == 6


def test_day_and_month_are_read_as_the_table_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "date": f"{20 + int(row['asin'][1]):02}/03/2020 10:00"} for row in ROWS]
    prepare(_config(_csv(tmp_path / "shop.csv", rows=rows)))
    assert "read as day/month/year: 2020-03-21 to 2020-03-26" in capsys.readouterr().out
    unsaid = [{**row, "date": f"{row['asin'][1]}/03/2020"} for row in ROWS]
    path = _csv(tmp_path / "other.csv", rows=unsaid)
    with pytest.raises(DataError, match="nothing says whether the day or the month comes first"):
        prepare(_config(path))
    prepare(_config(path, timestamp_format="%d/%m/%Y"))
    assert "2020-03-01 to 2020-03-06" in capsys.readouterr().out


def test_text_that_is_not_utf_8_names_the_way(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    rows = [{**row, "name": f"Käse {row['asin']}"} for row in ROWS]
    path.write_bytes(_csv(path, rows=rows).read_text(encoding="utf-8").encode("cp1252"))
    with pytest.raises(DataError, match=r"(?s)shop\.csv, line 2: its text is not UTF-8.*Käse i1.*--encoding cp1252"):
        prepare(_config(path))
    assert prepare(_config(path, encoding="cp1252")).titles[1] == "Käse i1"
    for wrong in ("klingon", "base64"):
        with pytest.raises(ConfigError, match=f"--encoding '{wrong}'"):
            _config(path, encoding=wrong)
    assert _config(path, encoding="UTF8").encoding == "utf-8"
    with pytest.raises(DataError, match=r"its text is not ascii(?s:.*)--encoding cp1252"):
        prepare(_config(path, encoding="ascii"))


def test_a_second_table_stays_known(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "name"} for row in ROWS]
    items = _csv(tmp_path / "items.csv", rows=[{"asin": f"i{i}", "label": f"Second {i}"} for i in range(1, 7)])
    table = _csv(tmp_path / "shop.csv", rows=rows)
    first = prepare(_config(table, items_file=str(items), title_column="label"))
    later = resolve_options(_config(table), {"dataset_code"})
    assert (Path(later.items_file), later.title_column) == (items, "label")
    assert prepare(later).fingerprint == first.fingerprint
    items.unlink()
    assert resolve_options(_config(table), {"dataset_code"}).items_file == ""


def test_a_parquet_row_without_a_user_is_named_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    pl.DataFrame([*ROWS, {**ROWS[0], "userId": None}]).write_parquet(path)
    with pytest.raises(DataError, match=r"shop\.parquet, row 37: no value for userId"):
        prepare(_config(path))
    assert prepare(_config(path, on_bad_line="skip")).num_interactions == len(ROWS)


@pytest.mark.parametrize("unknown", ["0", "-1", "99999999999999", "253402214400", "1970-01-01", "9999-12-31"])
def test_times_that_stand_for_unknown_are_named_with_their_count(tmp_path: Path, unknown: str) -> None:
    is_date = "-" in unknown[1:]
    rows = [{**row, "date": row["date"] if is_date else str(1_559_300_000 + n)} for n, row in enumerate(ROWS)]
    path = _csv(tmp_path / "shop.csv", rows=[*rows, *({**ROWS[0], "date": unknown} for _ in range(3))])

    with pytest.raises(DataError, match=rf"(?s)line 38: not a time, in 3 rows.*'{unknown}'"):
        prepare(_config(path))
    assert prepare(_config(path, on_bad_line="skip")).num_interactions == len(ROWS)


def test_order_numbers_are_said_to_be_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "date": str(n)} for n, row in enumerate(ROWS)]
    prepare(_config(_csv(tmp_path / "shop.csv", rows=rows)))
    assert "times        read as order numbers, no times: 0 to 35" in capsys.readouterr().out


def test_one_column_is_not_two_things(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="different columns"):
        _config(tmp_path / "shop.csv", user_column="a", item_column="b", timestamp_column="b")
    path = _csv(tmp_path / "shop.csv")
    with pytest.raises(ConfigError, match=r"'date' is already the item column"):
        prepare(_config(path, item_column="date"))


def test_many_skipped_lines_are_said_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _csv(tmp_path / "shop.csv", rows=[*ROWS, *({**ROWS[0], "date": "soon"} for _ in range(12))])
    prepare(_config(path, on_bad_line="skip"))
    assert "WARNING: 12 malformed lines (25.0%) were skipped" in capsys.readouterr().out


def test_who_took_too_little_is_left_out_and_still_known(tmp_path: Path) -> None:
    few = [{**ROWS[0], "userId": "few", "date": f"2020-02-0{9 - i}", "asin": f"i{i}"} for i in (1, 2)]
    data = prepare(_config(_csv(tmp_path / "shop.csv", rows=[*ROWS, *few])))
    assert "few" not in data.users
    (items,) = data.others.filter(pl.col("user") == "few")["item_ids"].to_list()
    assert [data.items[item] for item in items] == ["i2", "i1"]
    plain = prepare(_config(_csv(tmp_path / "plain.csv")))
    assert plain.fingerprint == data.fingerprint, "what is trained on is the same"
    assert plain.others.is_empty()


def test_an_absent_file_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--dataset_code .*gone\.csv: no such file"):
        prepare(_config(tmp_path / "gone.csv"))
    path = _csv(tmp_path / "shop.csv")
    with pytest.raises(ConfigError, match="--items_file"):
        prepare(replace(_config(path), items_file="gone.csv"))


@pytest.mark.parametrize("path", [r"C:\data\my shop.csv", "/data/my shop.csv.gz", "my shop.parquet"])
def test_results_lie_under_the_files_name_on_every_system(path: str) -> None:
    assert DataConfig(path).name == "my shop"


def test_a_prepared_table_is_known_by_its_name_and_needs_its_files_no_more(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "name"} for row in ROWS]
    items = _csv(tmp_path / "items.csv", rows=[{"asin": f"i{i}", "title": f"Second {i}"} for i in range(1, 7)])
    table = _csv(tmp_path / "shop.csv", rows=rows)
    first = prepare(_config(table, items_file=str(items)))
    assert prepare(_config(table)).fingerprint == first.fingerprint, "titles need not be named again"
    table.unlink()
    items.unlink()
    assert prepare(_config(table)).fingerprint == first.fingerprint
    by_name = replace(_config(table), dataset_code="shop")
    assert prepare(by_name).fingerprint == first.fingerprint
    with pytest.raises(ConfigError, match="--dataset_code shops: unknown data set"):
        prepare(replace(by_name, dataset_code="shops"))


# ---- Names ----


@pytest.mark.parametrize(
    "name", [".csv", "..csv", ".tsv.gz", " .csv", "nul.csv", "COM1.old.jsonl", "a|b.csv", "a\tb.csv"]
)
def test_a_file_whose_name_cannot_name_a_folder_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    prepared = prepare(_config(_csv(tmp_path / "shop.csv")))
    with pytest.raises(ConfigError, match=r"(?s)names the folders of all results.*rename the file"):
        prepare(_config(tmp_path / name))
    assert load_prepared(prepared.folder).fingerprint == prepared.fingerprint


def test_a_table_named_like_a_public_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)games is the name of a public data set.*my_games\.csv"):
        prepare(_config(_csv(tmp_path / "games.csv")))


# ---- People who come back ----


def _repeating(num_users: int, num_returning: int) -> list[dict[str, str]]:
    """Users with six items; of some, the one before the last is their second."""
    rows = []
    for user in range(num_users):
        items = [1, 2, 3, 4, 2 if user < num_returning else 5, 6]
        rows += [
            {"user": f"u{user}", "item": f"i{item}", "time": str(1_577_836_800 + day), "title": f"Thing {item}"}
            for day, item in enumerate(items)
        ]
    return rows


def test_exact_copies_are_dropped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once = prepare(_config(_csv(tmp_path / "once.csv", rows=_repeating(40, 0))))
    capsys.readouterr()
    rows = _repeating(40, 0)
    twice = prepare(_config(_csv(tmp_path / "twice.csv", rows=[*rows, *rows[:3], rows[0]])))
    said = capsys.readouterr().out

    assert twice.fingerprint == once.fingerprint
    assert not twice.has_repeats
    assert twice.manifest["raw"]["exact_copies"] == 4
    assert "4 exact copies of another interaction" in said
    assert "repeats" not in said


@pytest.mark.parametrize(("num_returning", "expected"), [(1, False), (20, True)])
def test_whether_people_come_back_is_a_matter_of_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], num_returning: int, expected: bool
) -> None:
    data = prepare(_config(_csv(tmp_path / "shop.csv", rows=_repeating(100, num_returning))))

    assert data.has_repeats == expected
    assert data.manifest["taken_before"] == num_returning / 100
    said = " ".join(capsys.readouterr().out.split())
    assert f"{num_returning}.0% of the validation items were taken before" in said
    assert f"--exclude_history {'always' if expected else 'never'}" in said


# ---- Times finer than a second ----

_START = datetime(2020, 1, 1, 12, tzinfo=UTC)


def _milliseconds(click: int) -> int:
    return 1_577_880_000_000 + 120 * click


FINE_TIMES: dict[str, Callable[[int], object]] = {
    "decimal seconds": lambda click: f"{_milliseconds(click) / 1000:.3f}",
    "milliseconds": _milliseconds,
    "microseconds": lambda click: _milliseconds(click) * 1000,
    "nanoseconds": lambda click: _milliseconds(click) * 10**6,
    "ISO": lambda click: (_START + timedelta(milliseconds=120 * click)).isoformat(),
    "ISO with a comma": lambda click: (_START + timedelta(milliseconds=120 * click)).isoformat().replace(".", ","),
    "day first": lambda click: f"{_START + timedelta(milliseconds=120 * click):31/01/2020 %H:%M:%S.%f}",
}


@pytest.mark.parametrize("form", [*FINE_TIMES, "a given format", "Parquet"])
def test_clicks_within_a_second_have_their_order(tmp_path: Path, form: str) -> None:
    """Six clicks of each user in 0.6 seconds, in a file that has them backwards."""
    clicks = [(user, click) for user in range(6) for click in reversed(range(6))]
    options = {"timestamp_format": "%d.%m.%Y %H:%M:%S.%f"} if form == "a given format" else {}
    path = tmp_path / ("shop.parquet" if form == "Parquet" else "shop.tsv")
    if form == "Parquet":
        times: list[object] = [_START + timedelta(milliseconds=120 * click) for _, click in clicks]
    elif options:
        times = [f"{_START + timedelta(milliseconds=120 * click):%d.%m.%Y %H:%M:%S.%f}" for _, click in clicks]
    else:
        times = [FINE_TIMES[form](click) for _, click in clicks]
    table = pl.DataFrame(
        {
            "user": [f"u{user}" for user, _ in clicks],
            "item": [f"i{click}" for _, click in clicks],
            "time": times,
            "title": [f"Thing {click}" for _, click in clicks],
        }
    )
    table.write_parquet(path) if form == "Parquet" else table.write_csv(path, separator="\t")

    data = prepare(_config(path, **options))

    assert [data.items[item] for item in data.sequences.whole(3)] == [f"i{click}" for click in range(6)]
    assert data.sequences.timestamps[0] == 1_577_880_000 or form == "day first"


def test_the_same_item_twice_in_a_second_is_no_copy(tmp_path: Path) -> None:
    rows = [
        {"user": f"u{user}", "item": f"i{item}", "time": f"{time:.2f}", "title": f"Thing {item}"}
        for user in range(6)
        for item in range(6)
        for time in (1_577_836_800 + item, 1_577_836_800.5 + item)
    ]
    assert prepare(_config(_csv(tmp_path / "shop.csv", rows=rows))).num_interactions == 72
