"""Goodreads by genre (Wan and McAuley 2018): books on people's shelves, in the order in which they were added."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import polars as pl

from llamarec.assets import Download
from llamarec.data.lines import KEY, Schema, jsonl_format, read_interactions, read_lines
from llamarec.data.source import RawFile, RawInput, RawTables, Source
from llamarec.data.sources.records import seconds_of
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, TITLE, USER

_ADDRESS: Final = "https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads/byGenre/"
_TIME: Final = "%a %b %d %H:%M:%S %z %Y"  # Fri Apr 19 08:15:15 -0700 2013
_GENRES: Final = (
    "children",
    "comics_graphic",
    "fantasy_paranormal",
    "history_biography",
    "mystery_thriller_crime",
    "poetry",
    "romance",
    "young_adult",
)


def _source(genre: str) -> Source:
    names = (f"goodreads_interactions_{genre}.json.gz", f"goodreads_books_{genre}.json.gz")
    return Source(
        code=f"goodreads-{genre}",
        files=tuple(RawFile(name, (name.removesuffix(".gz"),), Download(_ADDRESS + name)) for name in names),
        read=partial(_read, *names),
        homepage="https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html",
        family="goodreads-GENRE",
    )


def _read(interactions: str, books: str, raw: RawInput) -> RawTables:
    path = raw.paths[interactions]
    shelved: Schema = {"user_id": pl.String, "book_id": pl.String, "date_added": pl.String}
    if raw.least:
        # 0 where there is none.
        shelved["rating"] = pl.Float64
    book: Schema = {"book_id": pl.String, "title": pl.String}

    form = jsonl_format(shelved, tuple(shelved))
    rows = read_interactions(path, form, raw.bad, each=lambda rows: raw.each(_interactions(rows, path)))
    items = read_lines(raw.paths[books], jsonl_format(book, ("book_id",)), raw.bad)
    return RawTables(rows, items.rename({"book_id": ITEM, "title": TITLE}), f"dates of the form {_TIME}")


def _interactions(rows: pl.DataFrame, path: Path) -> pl.DataFrame:
    return rows.select(
        pl.col("user_id").cast(KEY).alias(USER),
        pl.col("book_id").cast(KEY).alias(ITEM),
        seconds_of(rows, "date_added", _TIME, path).alias(TIMESTAMP),
        *([pl.col("rating").alias(RATING)] if "rating" in rows.columns else []),
    )


GOODREADS: Final = tuple(_source(genre) for genre in _GENRES)
