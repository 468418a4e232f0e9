"""Random generators of every kind, held by everything that draws, in every kind of holder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.resume.generator_jobs import generator_jobs
from tests.resume.matrix.subjects import Judged

TITLE: Final = "Random generators beside the global ones: owner, holder, kind"


def subjects() -> Iterator[Judged]:
    """One for each combination that the tests have."""
    for name, judge in generator_jobs():
        yield Judged(name, judge)
