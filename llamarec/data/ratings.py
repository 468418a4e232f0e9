"""A threshold of ratings: what is below it is left out while interactions are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from llamarec.errors import DataError
from llamarec.vocabulary import RATING


@dataclass
class LeastRating:
    """The lowest rating that counts, and what was seen so far.

    Attributes:
        least: The threshold; interactions with this rating are kept.
        num_kept: Interactions so far that are kept.
        num_lower: Interactions so far that are left out.
        lowest: The lowest rating so far.
        highest: The highest rating so far.
    """

    least: float
    num_kept: int = 0
    num_lower: int = 0
    lowest: float = math.inf
    highest: float = -math.inf

    def keep(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows that are rated high enough, without the column of ratings."""
        kept = rows.filter(pl.col(RATING) >= self.least).drop(RATING)
        if not rows.is_empty():
            lowest, highest = rows.select(pl.min(RATING).alias("lowest"), pl.max(RATING).alias("highest")).row(0)
            self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
            self.num_kept += kept.height
            self.num_lower += rows.height - kept.height
        return kept

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many interactions were left out, by the reason."""
        return {f"with a rating below {self.least:.15g} (--min_rating)": self.num_lower} if self.num_lower else {}

    @property
    def warning(self) -> str:
        """Said where ratings tell nothing apart: copies of data sets have one rating as a placeholder."""
        if self.num_kept and self.lowest == self.highest:
            return f"WARNING: all ratings are {self.lowest:g}, so that --min_rating drops nothing"
        return ""

    def check_kept(self, dataset_code: str) -> None:
        """Checks that an interaction is left.

        Raises:
            DataError: all of them have a lower rating.
        """
        if self.num_lower and not self.num_kept:
            raise DataError(
                f"{dataset_code}: no rating is as high as --min_rating {self.least:.15g}",
                expected="a rating within those of the data",
                found=f"{self.num_lower:,} ratings from {self.lowest:g} to {self.highest:g}",
            )
