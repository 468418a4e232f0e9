"""A public data set: the raw files it needs, and how they become two tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import polars as pl

from llamarec.assets import Download
from llamarec.data.lines import KEY, BadLines, Schema
from llamarec.data.ratings import LeastRating
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, TITLE, USER

INTERACTION_SCHEMA: Schema = {USER: KEY, ITEM: KEY, TIMESTAMP: pl.Int64}
ITEM_SCHEMA: Schema = {ITEM: pl.String, TITLE: pl.String}
SECONDS: Final = "seconds since 1970"
FRACTION: Final = "microseconds"
"""Column of microseconds within the second, where a table's times are that fine."""
ORDER: Final = "order"
"""Column that orders interactions with equal times, where a table has one."""
CLOCK: Final = "clock"
"""Column of times of day, where a table has them beside its dates."""


@dataclass(frozen=True)
class RawInput:
    """What a source reads.

    Attributes:
        paths: Its raw files by `RawFile.name`.
        bad: What happens to malformed lines.
        least: Threshold of ratings; None where they are not read.
    """

    paths: Mapping[str, Path]
    bad: BadLines
    least: LeastRating | None = None

    @property
    def schema(self) -> Schema:
        """The columns of interactions to read, all of them required."""
        return INTERACTION_SCHEMA | ({RATING: pl.Float64} if self.least else {})

    def each(self, rows: pl.DataFrame) -> pl.DataFrame:
        """What is kept of a block of interactions in these columns."""
        return self.least.keep(rows) if self.least else rows


class RawTables(NamedTuple):
    """Raw data in common columns.

    interactions: user, item, timestamp (and FRACTION, ORDER) in the file's order; keys are coded (KEY) or text. items:
    item, title. times: the format of times in words, where it was recognised. columns: a table's own names, by this
    package's. left_out: interactions that were left out while they were read, by reason ("with a rating below 4").
    warnings: lines that a person must read. files: a user's own files, and how they are read.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    times: str = SECONDS
    columns: Mapping[str, str] = MappingProxyType({})
    left_out: Mapping[str, int] = MappingProxyType({})
    warnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawFile:
    """A raw file by its public name.

    Attributes:
        name: The name its owner gives it.
        other_names: Names accepted instead, of compressed copies for example.
        download: Its address; None where a person must download it.
    """

    name: str
    other_names: tuple[str, ...] = ()
    download: Download | None = None


@dataclass(frozen=True)
class Source:
    """One public data set.

    Attributes:
        code: Its `--dataset_code`, also its folder under the data root.
        files: The raw files.
        read: Reads the tables.
        homepage: Page where a person finds the files.
        has_ratings: Whether interactions have ratings.
        family: What stands for its code and others of its kind: "amazon2018-CATEGORY".
        by_hand: Why a program cannot fetch them; empty where it can.
        fallback: Fetches other files with the same tables when the public address cannot be reached.
    """

    code: str
    files: tuple[RawFile, ...]
    read: Callable[[RawInput], RawTables]
    homepage: str
    has_ratings: bool = True
    family: str = ""
    by_hand: str = ""
    fallback: Callable[[], dict[str, Path]] | None = None
