"""Parquet tables with their origin in the metadata: what made them, and from which data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Final

import polars as pl

from llamarec.data.lines import POLARS_ERRORS
from llamarec.errors import ArtifactError

UNREADABLE: Final = (*POLARS_ERRORS, OSError, KeyError, ValueError)
"""Errors that reading a damaged or foreign file raises."""

_METADATA_KEY: Final = "llamarec"


def table_bytes(frame: pl.DataFrame, origin: Mapping[str, object]) -> bytes:
    """A table as a Parquet file, with `origin` as JSON in its metadata."""
    file = BytesIO()
    frame.write_parquet(file, compression="zstd", metadata={_METADATA_KEY: json.dumps({**origin})})
    return file.getvalue()


def origin_in(content: bytes) -> dict[str, object]:
    """What `table_bytes` kept beside the table; raises one of `UNREADABLE`."""
    return {**json.loads(pl.read_parquet_metadata(BytesIO(content))[_METADATA_KEY])}


def table_in(content: bytes) -> pl.DataFrame:
    """The table; raises one of `UNREADABLE`."""
    return pl.read_parquet(BytesIO(content))


@contextlib.contextmanager
def reading(path: Path, hint: str) -> Iterator[None]:
    """Turns errors of a damaged file into an ArtifactError whose hint is the command that makes it again."""
    try:
        yield
    except UNREADABLE as error:
        raise ArtifactError(f"{path}: cannot be read", found=str(error), hint=hint) from error
