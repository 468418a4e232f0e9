"""Last.fm of HetRec 2011 (Cantador et al. 2011): which artists people tagged, and when.

How often they listened (`user_artists.dat`) has no times, and so no order.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from llamarec.assets import Download
from llamarec.data.lines import KEY, Schema, csv_format, read_interactions, read_lines
from llamarec.data.source import FRACTION, ITEM_SCHEMA, RawFile, RawInput, RawTables, Source
from llamarec.data.sources.records import check_header
from llamarec.data.time_columns import MICROSECONDS
from llamarec.vocabulary import ITEM, TIMESTAMP, TITLE, USER

_ADDRESS: Final = "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip"
_TAGGED, _ARTISTS = "user_taggedartists-timestamps.dat", "artists.dat"
_MILLISECONDS: Final = "milliseconds"
_FIRST: Final = 1_009_843_200_000  # 2002, when Last.fm began; a few times are before 1970


def _read(raw: RawInput) -> RawTables:
    schema: Schema = {USER: KEY, ITEM: KEY, _MILLISECONDS: pl.Int64}
    tagged = csv_format((USER, ITEM, "tag", _MILLISECONDS), schema, tuple(schema), separator="\t", quote=False)
    artists = csv_format((ITEM, TITLE, "url", "picture"), ITEM_SCHEMA, (ITEM,), separator="\t", quote=False)

    header = check_header(raw.paths[_TAGGED], ("userID", "artistID", "tagID", "timestamp"), "\t")
    rows = read_interactions(raw.paths[_TAGGED], tagged, raw.bad, skip_lines=header)
    known = rows.filter(pl.col(_MILLISECONDS) >= _FIRST)
    interactions = known.select(
        USER,
        ITEM,
        (pl.col(_MILLISECONDS) // 1_000).alias(TIMESTAMP),
        (pl.col(_MILLISECONDS) % 1_000 * (MICROSECONDS // 1_000)).alias(FRACTION),
    )
    left_out = {"with a time before 2002": rows.height - known.height} if known.height < rows.height else {}
    header = check_header(raw.paths[_ARTISTS], ("id", "name", "url", "pictureURL"), "\t")
    items = read_lines(raw.paths[_ARTISTS], artists, raw.bad, skip_lines=header)
    return RawTables(interactions, items, "milliseconds since 1970", left_out=left_out)


LASTFM_2K: Final = Source(
    code="lastfm-2k",
    files=tuple(RawFile(name, (), Download(_ADDRESS, member=name)) for name in (_TAGGED, _ARTISTS)),
    read=_read,
    homepage="https://grouplens.org/datasets/hetrec-2011/",
    has_ratings=False,
)
