"""Yelp Open Dataset: reviews of 2019. Users visit the same business again, and all visits are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from llamarec.data.lines import KEY, Schema, jsonl_format, read_interactions, read_lines
from llamarec.data.source import RawFile, RawInput, RawTables, Source
from llamarec.data.sources.records import seconds_of
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, TITLE, USER

_REVIEWS = "yelp_academic_dataset_review.json"
_BUSINESSES = "yelp_academic_dataset_business.json"
_YEAR = "2019-"


def _read(raw: RawInput) -> RawTables:
    review: Schema = {"user_id": pl.String, "business_id": pl.String, "date": pl.String}
    if raw.least:
        review["stars"] = pl.Float64
    # The file has 5 GB; only three fields of one year stay in memory.
    year = _Year(raw.paths[_REVIEWS])
    interactions = read_interactions(
        raw.paths[_REVIEWS],
        jsonl_format(review, tuple(review)),
        raw.bad,
        each=lambda rows: raw.each(year.keep(rows)),
    )

    business: Schema = {"business_id": pl.String, "name": pl.String}
    items = read_lines(raw.paths[_BUSINESSES], jsonl_format(business, ("business_id",)), raw.bad)
    return RawTables(
        interactions, items.rename({"business_id": ITEM, "name": TITLE}), "ISO dates", left_out=year.left_out
    )


@dataclass
class _Year:
    """The reviews of 2019, and how many others there were."""

    path: Path
    num_others: int = 0

    def keep(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Interactions of a block of reviews."""
        kept = rows.filter(pl.col("date").str.starts_with(_YEAR))
        self.num_others += rows.height - kept.height
        return kept.select(
            pl.col("user_id").cast(KEY).alias(USER),
            pl.col("business_id").cast(KEY).alias(ITEM),
            seconds_of(kept, "date", "%Y-%m-%d %H:%M:%S", self.path).alias(TIMESTAMP),
            *([pl.col("stars").alias(RATING)] if "stars" in rows.columns else []),
        )

    @property
    def left_out(self) -> dict[str, int]:
        """As in `RawTables`."""
        return {"of other years than 2019": self.num_others} if self.num_others else {}


YELP_2020 = Source(
    code="yelp2020",
    files=(RawFile(_REVIEWS, (f"{_REVIEWS}.gz",)), RawFile(_BUSINESSES, (f"{_BUSINESSES}.gz",))),
    read=_read,
    homepage="https://www.yelp.com/dataset",
    by_hand="accept Yelp's licence and download them by hand",
)
