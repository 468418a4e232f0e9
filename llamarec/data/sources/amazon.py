"""Amazon reviews of 2014 (McAuley et al. 2015): ratings as CSV without a header, metadata as Python literals."""

from __future__ import annotations

import ast
import json
import warnings
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
    return RawTables(interactions, read_lines(raw.paths[meta], metadata_format("asin"), raw.bad))


def metadata_format(key: str) -> LineFormat:
    """Format of metadata: a line for each item, with its `key` and perhaps a title."""
    return LineFormat(ITEM_SCHEMA, (ITEM,), partial(_parse_metadata, key))


def _parse_metadata(key: str, lines: Lines) -> Row | None:
    """Key and title from JSON or from a Python literal, which is parsed and never evaluated."""
    line = next(lines)
    if not line.strip():
        return None

    try:
        row = json.loads(line)
    except ValueError:
        row = _literal(line)
    if not isinstance(row, dict):
        raise ValueError(f"expected a dictionary, found a {type(row).__name__}")

    item, title = row.get(key), row.get("title")
    if item is not None and not isinstance(item, str):
        raise ValueError(f"{key} is no text: {item!r}")
    return {ITEM: item, TITLE: title if isinstance(title, str) else None}


def _literal(line: str) -> object:
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            return ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError("neither JSON nor a Python literal") from None


AMAZON_2014 = (
    _source("beauty", "Beauty"),
    _source("games", "Video_Games"),
    _source("sports", "Sports_and_Outdoors"),
    _source("toys", "Toys_and_Games"),
)
