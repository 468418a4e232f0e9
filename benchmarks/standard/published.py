"""Figures that others have published for the same sets, with their sources; the data stand in published.json."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llamarec.checkpoints.storage import json_shapes


@dataclass(frozen=True)
class PublishedSystem:
    """Where a system's figures come from."""

    source: str
    note: str


@dataclass(frozen=True)
class Published:
    """Content of published.json.

    Attributes:
        sources: Citations by short name.
        systems: By name.
        figures: By set, then system, then metric.
    """

    sources: dict[str, str]
    systems: dict[str, PublishedSystem]
    figures: dict[str, dict[str, dict[str, float]]]


@cache
def published() -> Published:
    """The figures."""
    return json_shapes.read(Path(__file__).with_name("published.json"), Published)
