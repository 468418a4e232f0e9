"""Trainers of trl, a search with optuna, data sets of datasets, low-rank optimizers: where they are installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.ecosystem.jobs import JOBS, missing
from tests.resume.matrix.subjects import Judged

TITLE: Final = "Other libraries: trl, optuna, datasets, GaLore, APOLLO"


def subjects() -> Iterator[Judged]:
    """One for each training; none where a library is missing."""
    for name, judge in () if missing() else JOBS:
        yield Judged(name, judge)
