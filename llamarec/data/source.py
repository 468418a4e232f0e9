"""What a source is: the raw files it needs, and how they become two tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

from llamarec.assets import Download
from llamarec.data.lines import BadLines
from llamarec.vocabulary import ITEM, TIMESTAMP, TITLE, USER

INTERACTION_SCHEMA = {USER: pl.String, ITEM: pl.String, TIMESTAMP: pl.Int64}
ITEM_SCHEMA = {ITEM: pl.String, TITLE: pl.String}
REQUIRED = (USER, ITEM, TIMESTAMP)


class RawTables(NamedTuple):
    """interactions: user, item, timestamp in the file's order. items: item, title. times: how times were read."""

    interactions: pl.DataFrame
    items: pl.DataFrame
    times: str = ""


@dataclass(frozen=True)
class RawFile:
    """A raw file by its public name.

    Attributes:
        name: As its owner publishes it.
        other_names: Accepted in its place (packed, say).
        download: Where it comes from; None where a person must fetch it.
    """

    name: str
    other_names: tuple[str, ...] = ()
    download: Download | None = None


@dataclass(frozen=True)
class Source:
    """One public data set.

    Attributes:
        code: Its `--dataset_code` and its folder under the data root.
        files: What it is read from.
        read: Raw tables from the paths, by `RawFile.name`.
        homepage: Where a person finds it.
        by_hand: Why it cannot be fetched by a program; empty where it can.
        fallback: Other files that give the same tables, for where the public address cannot be reached.
    """

    code: str
    files: tuple[RawFile, ...]
    read: Callable[[Mapping[str, Path], BadLines], RawTables]
    homepage: str
    by_hand: str = ""
    fallback: Callable[[], dict[str, Path]] | None = None
