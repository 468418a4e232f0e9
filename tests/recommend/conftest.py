"""A finished run, and what recommends from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamarec.recommend.recommender import Recommender
from tests.report.conftest import experiment, finished

__all__ = ["experiment", "finished"]


@pytest.fixture(scope="session")
def recommender(finished: Path) -> Recommender:
    return Recommender.load(finished / "experiments" / "llm" / "shop", device="cpu")
