"""Amazon reviews of 2014 (McAuley et al. 2015): ratings as CSV without a header, metadata as Python literals."""

from __future__ import annotations

import ast
import json
from functools import partial

from llamarec.assets import Download
from llamarec.data.lines import LineFormat, Lines, Row, csv_format, read_interactions, read_lines
from llamarec.data.source import ITEM_SCHEMA, RawFile, RawInput, RawTables, Source
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
    return RawTables(interactions, read_lines(raw.paths[meta], _META, raw.bad))


def _parse_meta(lines: Lines) -> Row | None:
    """Asin and title from a Python literal, which is parsed and never evaluated, or from JSON."""
    line = next(lines)
    if not line.strip():
        return None

    try:
        row = ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise ValueError("neither a Python literal nor JSON") from None
    if not isinstance(row, dict):
        raise ValueError(f"expected a dictionary, found a {type(row).__name__}")
    title = row.get("title")
    return {ITEM: row.get("asin"), TITLE: title if isinstance(title, str) else None}


_META = LineFormat(ITEM_SCHEMA, (ITEM,), _parse_meta)

AMAZON_2014 = (
    _source("beauty", "Beauty"),
    _source("games", "Video_Games"),
    _source("sports", "Sports_and_Outdoors"),
    _source("toys", "Toys_and_Games"),
)
