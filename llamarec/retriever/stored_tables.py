"""Parquet files with their origin in the metadata: what made them, and from which data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import polars as pl

from llamarec.errors import ArtifactError
from llamarec.files import replacing

UNREADABLE: Final = (pl.exceptions.PolarsError, OSError, KeyError, ValueError)
"""Errors that reading a damaged or foreign file raises."""

_METADATA_KEY: Final = "llamarec"


def write_table(frame: pl.DataFrame, path: Path, origin: Mapping[str, object]) -> None:
    """Replaces a file, with `origin` as JSON in its metadata."""
    metadata = {_METADATA_KEY: json.dumps({**origin})}
    with replacing(path) as staging:
        frame.write_parquet(staging, compression="zstd", metadata=metadata)


def read_origin(path: Path) -> dict[str, object]:
    """What `write_table` kept beside the table; raises one of `UNREADABLE`."""
    return {**json.loads(pl.read_parquet_metadata(path)[_METADATA_KEY])}


@contextlib.contextmanager
def reading(path: Path, hint: str) -> Iterator[None]:
    """Turns errors of a damaged file into an ArtifactError whose hint is the command that makes it again."""
    try:
        yield
    except UNREADABLE as error:
        raise ArtifactError(f"{path}: cannot be read", found=str(error), hint=hint) from error
