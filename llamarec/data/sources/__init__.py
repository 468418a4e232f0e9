"""The registry of public data sets: one module per source."""

from __future__ import annotations

from typing import Final

from llamarec.data.source import Source
from llamarec.data.sources import amazon, movielens, yelp

SOURCES: Final[dict[str, Source]] = {
    source.code: source for source in (*amazon.AMAZON_2014, *movielens.MOVIELENS, yelp.YELP_2020)
}
