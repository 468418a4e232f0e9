"""Sources in the forms that only they have."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.errors import ConfigError, DataError
from tests.data.raw import DAY_SECONDS, START, WRITERS


def _config(folder: Path, code: str, **options: str) -> DataConfig:
    raw = folder / code
    if not raw.is_dir():
        raw.mkdir()
        WRITERS[code](raw)
    return DataConfig(code, str(folder), str(folder / "experiments"), **options)  # type: ignore[arg-type]


def test_goodreads_times_have_a_zone(tmp_path: Path) -> None:
    data = prepare(_config(tmp_path, "goodreads-poetry"))
    assert data.sequences.timestamps[0] == START + DAY_SECONDS + 7 * 3_600


@pytest.mark.parametrize(
    ("code", "file"),
    [("goodreads-poetry", "goodreads_interactions_poetry.json.gz"), ("steam", "steam_reviews.json.gz")],
)
def test_a_date_in_another_form_is_shown(tmp_path: Path, code: str, file: str) -> None:
    config = _config(tmp_path, code)
    path = tmp_path / code / file
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace("2019-01", "in 19", 1).replace("0700 2019", "in 19", 1).encode()))
    with pytest.raises(DataError, match=r"(?s)is no time.*the format .*found: .*in 19"):
        prepare(config)


def test_lastfm_leaves_out_what_was_tagged_before_it_began(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = prepare(_config(tmp_path, "lastfm-2k"))
    assert "1 interactions with a time before 2002" in capsys.readouterr().out
    assert data.manifest["raw"]["exact_copies"] == 36, "two tags at one moment"
    assert data.titles[1] == 'Sigur Rós "1"'


def test_steam_games_without_an_id_are_nobody_s(tmp_path: Path) -> None:
    data = prepare(_config(tmp_path, "steam"))
    assert data.titles[1] == "Hero's Tale 1"
    assert data.users[0] == 'O\u2019Neil "1"'


@pytest.mark.parametrize("code", ["steam", "lastfm-2k"])
def test_a_threshold_is_refused_without_ratings(tmp_path: Path, code: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)--min_rating 4: {code} has no ratings.*--min_rating none"):
        prepare(_config(tmp_path, code, min_rating="4"))


def test_a_genre_that_is_none_gets_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no such category.*goodreads- and one of children.*goodreads-romance"):
        prepare(DataConfig("goodreads-romanse", experiment_root=str(tmp_path)))


@pytest.mark.parametrize(
    ("code", "file"),
    [
        ("ml-25m", "ratings.csv"),
        ("ml-latest-small", "movies.csv"),
        ("lastfm-2k", "user_taggedartists-timestamps.dat"),
        ("lastfm-2k", "artists.dat"),
    ],
)
def test_a_first_row_is_not_lost_as_a_header(tmp_path: Path, code: str, file: str) -> None:
    config = _config(tmp_path, code)
    path = tmp_path / code / file
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    with pytest.raises(DataError, match=rf"(?s){file}: it does not begin with its header.*found: +'1"):
        prepare(config)


@pytest.mark.parametrize(("code", "file"), [("ml-100k", "u.item"), ("ml-1m", "movies.dat"), ("ml-10m", "movies.dat")])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_titles_of_movielens_are_in_either_encoding(tmp_path: Path, code: str, file: str, encoding: str) -> None:
    config = _config(tmp_path, code)
    path = tmp_path / code / file
    titles = path.read_bytes().decode("latin-1" if code != "ml-10m" else "utf-8")
    path.write_bytes(titles.encode(encoding))
    assert "é" in prepare(config).titles[1]
