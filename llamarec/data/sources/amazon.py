"""Amazon reviews of 2014 (McAuley et al. 2015): ratings as CSV without a header, metadata as Python literals."""

from __future__ import annotations

from functools import partial

from llamarec.assets import Download
from llamarec.data.lines import LineFormat, csv_format, read_interactions, read_lines
from llamarec.data.source import RawFile, RawInput, RawTables, Source
from llamarec.data.sources.records import records_format
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, TITLE, USER

_ADDRESS = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"


def _source(code: str, category: str) -> Source:
    ratings, meta = f"ratings_{category}.csv", f"meta_{category}.json.gz"
    return Source(
        code=code,
        files=(
            RawFile(ratings, (f"{ratings}.gz",), Download(_ADDRESS + ratings)),
            RawFile(meta, (meta.removesuffix(".gz"),), Download(_ADDRESS + meta)),
        ),
        read=partial(_read, ratings, meta),
        homepage="https://jmcauley.ucsd.edu/data/amazon/links.html",
    )


def _read(ratings: str, meta: str, raw: RawInput) -> RawTables:
    form = csv_format((USER, ITEM, RATING, TIMESTAMP), raw.schema, tuple(raw.schema))
    interactions = read_interactions(raw.paths[ratings], form, raw.bad, each=raw.each)
    return RawTables(interactions, read_lines(raw.paths[meta], metadata_format("asin"), raw.bad))


def metadata_format(key: str) -> LineFormat:
    """Format of metadata: a line for each item, with its `key` and perhaps a title."""
    return records_format({ITEM: (key,), TITLE: ("title",)}, (ITEM,))


AMAZON_2014 = (
    _source("beauty", "Beauty"),
    _source("games", "Video_Games"),
    _source("sports", "Sports_and_Outdoors"),
    _source("toys", "Toys_and_Games"),
)
