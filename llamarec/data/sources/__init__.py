"""The registry of public data sets.

amazon             reviews of 2014
amazon_categories  reviews of 2018 and 2023, a data set for each category
movielens          MovieLens, 100K to 32M ratings
yelp               Yelp's reviews of 2019
"""

from __future__ import annotations

from typing import Final

from llamarec.data.source import Source
from llamarec.data.sources import amazon, amazon_categories, movielens, yelp

SOURCES: Final[dict[str, Source]] = {
    source.code: source
    for source in (
        *amazon.AMAZON_2014,
        *amazon_categories.AMAZON_2018,
        *amazon_categories.AMAZON_2023,
        *movielens.MOVIELENS,
        yelp.YELP_2020,
    )
}
