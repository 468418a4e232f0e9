"""Steam (Kang and McAuley 2018): reviews of games, as Python literals. A user is a name, and a time is a day."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from llamarec.assets import Download
from llamarec.data.lines import KEY, read_interactions, read_lines
from llamarec.data.source import RawFile, RawInput, RawTables, Source
from llamarec.data.sources.records import records_format, seconds_of
from llamarec.vocabulary import ITEM, TIMESTAMP, TITLE, USER

_ADDRESS: Final = "https://cseweb.ucsd.edu/~wckang/"
_REVIEWS, _GAMES = "steam_reviews.json.gz", "steam_games.json.gz"
_REVIEW: Final = records_format({USER: ("username",), ITEM: ("product_id",), "date": ("date",)}, (USER, ITEM, "date"))
# Some games have no id, and are nobody's.
_GAME: Final = records_format({ITEM: ("id",), TITLE: ("title", "app_name")}, ())


def _read(raw: RawInput) -> RawTables:
    path = raw.paths[_REVIEWS]
    interactions = read_interactions(path, _REVIEW, raw.bad, each=lambda rows: _interactions(rows, path))
    return RawTables(interactions, read_lines(raw.paths[_GAMES], _GAME, raw.bad).drop_nulls(ITEM), "ISO dates")


def _interactions(rows: pl.DataFrame, path: Path) -> pl.DataFrame:
    return rows.select(pl.col(USER, ITEM).cast(KEY), seconds_of(rows, "date", "%Y-%m-%d", path).alias(TIMESTAMP))


STEAM: Final = Source(
    code="steam",
    files=tuple(RawFile(name, (name.removesuffix(".gz"),), Download(_ADDRESS + name)) for name in (_REVIEWS, _GAMES)),
    read=_read,
    homepage="https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
    has_ratings=False,
)
