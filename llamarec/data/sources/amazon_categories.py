"""Amazon reviews of 2018 (Ni et al. 2019) and 2023 (Hou et al. 2024), by category: reviews and metadata as JSON lines.

Of 2018, the reviews are those that the authors call 5-core. Of 2023, all reviews of a category; variants of a product
share the key `parent_asin`, which is the item.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import polars as pl

from llamarec.assets import Download
from llamarec.data.lines import KEY, Schema, jsonl_format, read_interactions, read_lines
from llamarec.data.source import FRACTION, SECONDS, RawFile, RawInput, RawTables, Source
from llamarec.data.sources.amazon import metadata_format
from llamarec.data.time_columns import MICROSECONDS
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, USER

_ADDRESS: Final = "https://mcauleylab.ucsd.edu/public_datasets/data/"


@dataclass(frozen=True, kw_only=True)
class _Edition:
    """The reviews of one release.

    Attributes:
        code: Begins the code of each data set.
        reviews: Path of a category's reviews below the address.
        metadata: Path of its metadata.
        user: Name of the field of users; the others likewise.
        units_per_second: Of the times.
    """

    code: str
    homepage: str
    reviews: str
    metadata: str
    user: str
    item: str
    rating: str
    time: str
    units_per_second: int

    @property
    def family(self) -> str:
        """What stands for the codes of all categories."""
        return f"{self.code}-CATEGORY"

    def source(self, category: str) -> Source:
        """The data set of a category."""
        reviews, metadata = (_file(pattern.format(category)) for pattern in (self.reviews, self.metadata))
        return Source(
            code=f"{self.code}-{category}",
            files=(reviews, metadata),
            read=partial(_read, self, reviews.name, metadata.name),
            homepage=self.homepage,
            family=self.family,
        )


def _file(path: str) -> RawFile:
    name = path.rpartition("/")[2]
    return RawFile(name, (name.removesuffix(".gz"),), Download(_ADDRESS + path))


def _read(edition: _Edition, reviews: str, metadata: str, raw: RawInput) -> RawTables:
    review: Schema = {edition.user: pl.String, edition.item: pl.String, edition.time: pl.Int64}
    if raw.least:
        review[edition.rating] = pl.Float64

    interactions = read_interactions(
        raw.paths[reviews],
        jsonl_format(review, tuple(review)),
        raw.bad,
        each=lambda rows: raw.each(_interactions(edition, rows)),
    )
    items = read_lines(raw.paths[metadata], metadata_format(edition.item), raw.bad)
    return RawTables(interactions, items, "milliseconds since 1970" if edition.units_per_second > 1 else SECONDS)


def _interactions(edition: _Edition, rows: pl.DataFrame) -> pl.DataFrame:
    time, units = pl.col(edition.time), edition.units_per_second
    microseconds = (time % units) * (MICROSECONDS // units)
    return rows.select(
        pl.col(edition.user).cast(KEY).alias(USER),
        pl.col(edition.item).cast(KEY).alias(ITEM),
        (time // units).alias(TIMESTAMP),
        *([microseconds.alias(FRACTION)] if units > 1 else []),
        *([pl.col(edition.rating).alias(RATING)] if edition.rating in rows.columns else []),
    )


_2018: Final = _Edition(
    code="amazon2018",
    homepage="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
    reviews="amazon_v2/categoryFilesSmall/{}_5.json.gz",
    metadata="amazon_v2/metaFiles2/meta_{}.json.gz",
    user="reviewerID",
    item="asin",
    rating="overall",
    time="unixReviewTime",
    units_per_second=1,
)
_2023: Final = _Edition(
    code="amazon2023",
    homepage="https://amazon-reviews-2023.github.io/",
    reviews="amazon_2023/raw/review_categories/{}.jsonl.gz",
    metadata="amazon_2023/raw/meta_categories/meta_{}.jsonl.gz",
    user="user_id",
    item="parent_asin",
    rating="rating",
    time="timestamp",
    units_per_second=1_000,
)

_BOTH: Final = """
    All_Beauty Appliances Arts_Crafts_and_Sewing Automotive Books CDs_and_Vinyl Cell_Phones_and_Accessories
    Clothing_Shoes_and_Jewelry Digital_Music Electronics Gift_Cards Grocery_and_Gourmet_Food Home_and_Kitchen
    Industrial_and_Scientific Kindle_Store Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products
    Patio_Lawn_and_Garden Pet_Supplies Software Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games
    Video_Games
"""
_ONLY_2018: Final = " AMAZON_FASHION Luxury_Beauty Prime_Pantry"
_ONLY_2023: Final = """
    Amazon_Fashion Baby_Products Beauty_and_Personal_Care Handmade_Products Health_and_Household
    Health_and_Personal_Care Subscription_Boxes Unknown
"""

AMAZON_2018: Final = tuple(_2018.source(category) for category in sorted((_BOTH + _ONLY_2018).split()))
AMAZON_2023: Final = tuple(_2023.source(category) for category in sorted((_BOTH + _ONLY_2023).split()))
