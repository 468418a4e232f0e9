"""A threshold for ratings: what is below it is dropped and counted; what is no rating is refused."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.sources import SOURCES
from llamarec.errors import ConfigError, DataError
from tests.data.raw import RATINGS_OF, WRITERS

# Seven items for each user; the last one is rated 2.
ROWS = [
    {"user": f"u{u}", "item": f"i{i}", "timestamp": f"{i}", "title": f"Cup {i}", "stars": "2" if i == 6 else "4.0"}
    for u in range(6)
    for i in range(7)
]
SMALL = {"min_user_interactions": 3, "min_item_interactions": 3}


def _config(table: Path, **options: str) -> DataConfig:
    return DataConfig(str(table), experiment_root=str(table.parent / "experiments"), **options)  # type: ignore[arg-type]


def _table(folder: Path, rows: list[dict[str, str]] = ROWS, name: str = "shop.csv") -> Path:
    table, frame = folder / name, pl.DataFrame(rows)
    if name.endswith("csv"):
        frame.write_csv(table)
    elif name.endswith("parquet"):
        frame.with_columns(pl.col("stars").cast(pl.Float32)).write_parquet(table)
    else:
        frame.with_columns(pl.col("stars").cast(pl.Float64)).write_ndjson(table)
    return table


@pytest.mark.parametrize("name", ["shop.csv", "shop.parquet", "shop.jsonl"])
@pytest.mark.parametrize("least", ["2.5", "4", "4.00"])
def test_lower_ratings_are_dropped_and_counted(
    tmp_path: Path, name: str, least: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare(_config(_table(tmp_path, name=name), min_rating=least))
    assert (data.num_items, data.num_interactions) == (6, 36)
    assert sum(data.manifest["left_out"].values()) == 6
    assert data.manifest["options"]["min_rating"] == least.replace("4.00", "4")
    said = capsys.readouterr().out
    assert f"6 interactions with a rating below {least.replace('4.00', '4')} (--min_rating)" in said
    assert "fewer than" not in said


def test_a_rating_equal_to_the_threshold_is_kept(tmp_path: Path) -> None:
    assert prepare(_config(_table(tmp_path), min_rating="2")).num_interactions == 42


def test_without_a_threshold_ratings_are_not_read(tmp_path: Path) -> None:
    data = prepare(_config(_table(tmp_path, [{**row, "stars": "good"} for row in ROWS])))
    assert data.num_interactions == 42
    assert "rating" not in data.manifest["columns"]


@pytest.mark.parametrize("given", ["good", "4,5", "", "nan", "inf", "-", "4/5"])
def test_what_is_no_number_is_named_by_its_line(tmp_path: Path, given: str) -> None:
    table = _table(tmp_path, [*ROWS[:2], {**ROWS[2], "stars": given}, *ROWS[3:]])
    with pytest.raises(DataError, match=r"shop\.csv, line 4: (rating is not a number|no value for stars)"):
        prepare(_config(table, min_rating="3"))
    data = prepare(_config(table, min_rating="3", on_bad_line="skip"))
    assert data.manifest["bad_lines"]["count"] == 1


def test_a_column_with_another_name_is_given_by_its_flag(tmp_path: Path) -> None:
    table = _table(tmp_path, [{"note": row.pop("stars"), **row} for row in map(dict, ROWS)])
    with pytest.raises(ConfigError, match="no column looks like the rating: --rating_column"):
        prepare(_config(table, min_rating="3"))
    assert prepare(_config(table, min_rating="3", rating_column="note")).manifest["left_out"]

    both = _table(tmp_path, [{**row, "score": "1"} for row in ROWS])
    with pytest.raises(ConfigError, match="several columns could be the rating: --rating_column stars or"):
        prepare(_config(both, min_rating="3"))


def test_a_threshold_above_all_ratings_is_refused_with_their_range(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)as high as --min_rating 80.*42 ratings from 2 to 4"):
        prepare(_config(_table(tmp_path), min_rating="80"))


def test_ratings_that_are_all_the_same_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(_config(_table(tmp_path, [{**row, "stars": "5"} for row in ROWS]), min_rating="4"))
    assert "WARNING: all ratings are 5, so that --min_rating drops nothing" in capsys.readouterr().out


@pytest.mark.parametrize("least", ["four", "nan", "", "inf"])
def test_a_threshold_is_a_number(least: str) -> None:
    with pytest.raises(ConfigError, match=rf"--min_rating '{least}': a number, or none"):
        DataConfig("beauty", min_rating=least)


def test_a_copy_with_a_lower_rating_does_not_hide_the_higher_one(tmp_path: Path) -> None:
    table = _table(tmp_path, [{**ROWS[0], "stars": "1"}, *ROWS])
    data = prepare(_config(table, min_rating="2"))
    assert (data.num_interactions, data.manifest["raw"]["exact_copies"]) == (42, 0)


@pytest.mark.parametrize("code", sorted(code for code in WRITERS if SOURCES[code].has_ratings))
def test_every_source_with_ratings_takes_a_threshold(tmp_path: Path, code: str) -> None:
    folder = tmp_path / code
    folder.mkdir()
    WRITERS[code](folder)
    rating = RATINGS_OF[code]
    config = DataConfig(code, str(tmp_path), str(tmp_path / "e"), min_rating=f"{rating}")
    data = prepare(config)
    assert data.num_users == 6
    assert not [reason for reason in data.manifest["left_out"] if "rating" in reason]

    config = DataConfig(code, str(tmp_path), str(tmp_path / "e"), min_rating=f"{rating + 0.5}")
    with pytest.raises(DataError, match=rf"ratings from {rating:g} to {rating:g}"):
        prepare(config)


def test_a_source_says_where_a_rating_is_no_number(tmp_path: Path) -> None:
    folder = tmp_path / "beauty"
    folder.mkdir()
    WRITERS["beauty"](folder)
    path = folder / "ratings_Beauty.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].replace("5.0", "nan"), *lines[3:]]), encoding="utf-8")
    assert prepare(DataConfig("beauty", str(tmp_path), str(tmp_path / "e"))).num_users == 6
    with pytest.raises(DataError, match=r"ratings_Beauty\.csv, line 3: rating is not a number: 'nan'"):
        prepare(DataConfig("beauty", str(tmp_path), str(tmp_path / "e"), min_rating="3"))


def test_a_trained_set_says_how_to_take_all_ratings_again(tmp_path: Path) -> None:
    config = _config(_table(tmp_path), min_rating="3")
    manifest = json.loads((prepare(config).folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["options"]["min_rating"] == "3"
    assert DataConfig("beauty", min_rating="None").least_rating is None
