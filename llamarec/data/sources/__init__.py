"""The registry of public data sets.

records            records of a line each, in JSON or as Python literals
amazon             reviews of 2014
amazon_categories  reviews of 2018 and 2023, a data set for each category
goodreads          books on shelves, a data set for each genre
lastfm             artists that people tagged
movielens          MovieLens, 100K to 32M ratings
steam              reviews of games
yelp               Yelp's reviews of 2019
"""

from __future__ import annotations

from typing import Final

from llamarec.data.source import Source
from llamarec.data.sources.amazon import AMAZON_2014
from llamarec.data.sources.amazon_categories import AMAZON_2018, AMAZON_2023
from llamarec.data.sources.goodreads import GOODREADS
from llamarec.data.sources.lastfm import LASTFM_2K
from llamarec.data.sources.movielens import MOVIELENS
from llamarec.data.sources.steam import STEAM
from llamarec.data.sources.yelp import YELP_2020

_ALL: Final = (
    *AMAZON_2014,
    *AMAZON_2018,
    *AMAZON_2023,
    *MOVIELENS,
    *GOODREADS,
    LASTFM_2K,
    STEAM,
    YELP_2020,
)
SOURCES: Final[dict[str, Source]] = {source.code: source for source in _ALL}
