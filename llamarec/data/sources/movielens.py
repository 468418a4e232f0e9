"""MovieLens (Harper and Konstan 2015): 100K to 32M ratings, and the "latest small" that LlamaRec calls ML-100k."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import polars as pl

from llamarec import assets
from llamarec.assets import Download
from llamarec.data.containers import open_bytes
from llamarec.data.lines import BadLines, Schema, csv_format, read_interactions, read_lines
from llamarec.data.source import ITEM_SCHEMA, RawFile, RawInput, RawTables, Source
from llamarec.data.sources.records import check_header
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, TITLE, USER

_ADDRESS = "https://files.grouplens.org/datasets/movielens/"
# Has not changed since 1998; "latest small" may.
_SHA256_OF_100K = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
_DAT, _CSV = ("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv")
_RATINGS_HEADER, _MOVIES_HEADER = ("userId", "movieId", "rating", "timestamp"), ("movieId", "title", "genres")
_RATING = (USER, ITEM, RATING, TIMESTAMP)
_U_ITEM = (ITEM, TITLE, *(f"field_{i}" for i in range(2, 24)))
_WHEEL_ITEM = (ITEM, "movie_title", "release_year", "class")


def _read_100k(raw: RawInput) -> RawTables:
    paths, bad = raw.paths, raw.bad
    data = csv_format(_RATING, raw.schema, tuple(raw.schema), separator="\t", quote=False)
    if paths["u.data"].suffix == ".inter":
        interactions = read_interactions(paths["u.data"], data, bad, skip_lines=1, each=raw.each)
        return RawTables(interactions, _wheel_items(paths["u.item"], bad))
    encoding = _encoding_of(paths["u.item"])
    items = csv_format(_U_ITEM, ITEM_SCHEMA, (ITEM,), separator="|", quote=False, encoding=encoding)
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


def _encoding_of(path: Path) -> str:
    """The encoding of titles: the sets of 1998 and 2003 have Latin-1, and copies of them were saved anew as UTF-8."""
    with open_bytes(path) as file:
        content = file.read()
    try:
        content.decode()
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _read_dat(raw: RawInput) -> RawTables:
    """Fields separated by two colons, without a header: the sets of 2003 and 2009."""
    ratings = csv_format(_RATING, raw.schema, tuple(raw.schema), separator="::", quote=False)
    columns, encoding = (ITEM, TITLE, "genres"), _encoding_of(raw.paths["movies.dat"])
    movies = csv_format(columns, ITEM_SCHEMA, (ITEM,), separator="::", quote=False, encoding=encoding)
    return RawTables(
        read_interactions(raw.paths["ratings.dat"], ratings, raw.bad, each=raw.each),
        read_lines(raw.paths["movies.dat"], movies, raw.bad),
    )


def _read_csv(raw: RawInput) -> RawTables:
    ratings_path, movies_path = raw.paths["ratings.csv"], raw.paths["movies.csv"]
    ratings = csv_format(_RATING, raw.schema, tuple(raw.schema))
    movies = csv_format((ITEM, TITLE, "genres"), ITEM_SCHEMA, (ITEM,))
    return RawTables(
        read_interactions(
            ratings_path, ratings, raw.bad, skip_lines=check_header(ratings_path, _RATINGS_HEADER), each=raw.each
        ),
        read_lines(movies_path, movies, raw.bad, skip_lines=check_header(movies_path, _MOVIES_HEADER)),
    )


def _packed(
    archive: str, names: tuple[str, ...], sha256: str = "", *, md5: str = "", folder: str = ""
) -> tuple[RawFile, ...]:
    folder, address = folder or archive.removesuffix(".zip"), _ADDRESS + archive
    members = {name: Download(address, f"{folder}/{name}", sha256, md5) for name in names}
    return tuple(RawFile(name, (), download) for name, download in members.items())


def _source(size: str, read: Callable[[RawInput], RawTables], names: tuple[str, ...], **packed: str) -> Source:
    return Source(
        code=f"ml-{size}",
        files=_packed(f"ml-{size}.zip", names, **packed),
        read=read,
        homepage=f"https://grouplens.org/datasets/movielens/{size}/",
    )


ML_100K = Source(
    code="ml-100k",
    files=_packed("ml-100k.zip", ("u.data", "u.item"), _SHA256_OF_100K),
    read=_read_100k,
    homepage="https://grouplens.org/datasets/movielens/100k/",
    fallback=_from_wheel,
)
ML_LATEST_SMALL = Source(
    code="ml-latest-small",
    files=_packed("ml-latest-small.zip", _CSV),
    read=_read_csv,
    homepage="https://grouplens.org/datasets/movielens/latest/",
)

# The MD5 that GroupLens publishes beside each archive, at its address and `.md5`.
MOVIELENS: Final = (
    ML_100K,
    _source("1m", _read_dat, _DAT, md5="c4d9eecfca2ab87c1945afe126590906"),
    _source("10m", _read_dat, _DAT, md5="ce571fd55effeba0271552578f2648bd", folder="ml-10M100K"),
    _source("20m", _read_csv, _CSV, md5="cd245b17a1ae2cc31bb14903e1204af3"),
    _source("25m", _read_csv, _CSV, md5="6b51fb2759a8657d3bfcbfc42b592ada"),
    _source("32m", _read_csv, _CSV, md5="d472be332d4daa821edc399621853b57"),
    ML_LATEST_SMALL,
)
