"""Amazon's releases: categories by name, times as fine as they are, metadata in both of its forms."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.sources import SOURCES
from llamarec.errors import ConfigError
from tests.data.raw import DAY_SECONDS, START, write_amazon_2018, write_amazon_2023, write_beauty


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("amazon2018-Video_Game", "amazon2018-Video_Games"),
        ("amazon2018-video_games", "amazon2018-Video_Games"),
        ("Amazon2018-Video_Games", "amazon2018-Video_Games"),
        ("amazon2018-Amazon_Fashion", "amazon2018-AMAZON_FASHION"),
        ("amazon2023-Beauty", "amazon2023-All_Beauty"),
        ("amazon2023-Luxury_Beauty", "amazon2023-All_Beauty"),
        ("amazon2023-Fashion", "amazon2023-Amazon_Fashion"),
    ],
)
def test_a_mistyped_category_gets_the_near_one_and_the_list(tmp_path: Path, typed: str, near: str) -> None:
    with pytest.raises(ConfigError) as refused:
        prepare(DataConfig(typed, experiment_root=str(tmp_path)))
    text = str(refused.value)
    assert f"--dataset_code {near}\n" in f"{text}\n"
    assert "Musical_Instruments" in text
    assert len(text) < 1500


def test_an_edition_alone_asks_for_the_category(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)amazon2023: which category\?.*amazon2023- and one of All_Beauty"):
        prepare(DataConfig("amazon2023", experiment_root=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"one of beauty, .*amazon2018-CATEGORY, amazon2023-CATEGORY, ml-100k"):
        prepare(DataConfig("amazone", experiment_root=str(tmp_path)))


def test_the_releases_have_their_numbers_of_categories() -> None:
    families = [source.family for source in SOURCES.values()]
    assert families.count("amazon2018-CATEGORY") == 29
    assert families.count("amazon2023-CATEGORY") == 34


def _config(folder: Path, code: str) -> DataConfig:
    (folder / code).mkdir()
    return DataConfig(code, str(folder), str(folder / "experiments"))


def test_milliseconds_of_2023_order_what_is_in_one_second(tmp_path: Path) -> None:
    config = _config(tmp_path, "amazon2023-All_Beauty")
    # In the file's order 6, 5, ..., each a millisecond before the one above it.
    write_amazon_2023(tmp_path / config.dataset_code)
    path = tmp_path / config.dataset_code / "All_Beauty.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for row in rows:
        row["timestamp"] = START * 1_000 + 10 - int(row["parent_asin"][1:])
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))

    data = prepare(config)
    assert [data.items[item] for item in data.sequences.whole(0)] == [f"B{i}" for i in (6, 5, 4, 3, 2, 1)]
    assert set(data.sequences.timestamps.tolist()) == {START}
    assert data.titles[1] == "Rock & Roll 1"


def test_html_of_2018_is_removed_and_scripts_are_no_titles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(tmp_path, "amazon2018-Video_Games")
    write_amazon_2018(tmp_path / config.dataset_code)
    data = prepare(config)
    assert data.titles[1] == "Rock & Roll 1"
    assert data.sequences.timestamps[0] == START + DAY_SECONDS
    assert data.manifest["cleaned_titles"] == 6
    assert "6 of 6 items had HTML or scripts in theirs, which were removed" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["json", "literal"])
def test_metadata_are_json_or_literals(tmp_path: Path, form: str) -> None:
    config = _config(tmp_path, "beauty")
    write_beauty(tmp_path / "beauty")
    rows = [{"asin": f"B{i}", "title": f"Bath \\ \u00e9 {i} \U0001f600", "price": 3.5} for i in range(1, 7)]
    lines = (json.dumps(row) if form == "json" else repr(row) for row in rows)
    (tmp_path / "beauty" / "meta_Beauty.json.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    assert prepare(config).titles[1] == "Bath \\ \u00e9 1 \U0001f600"
