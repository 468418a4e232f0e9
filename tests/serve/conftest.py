"""A service over a finished run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from llamarec.recommend.recommender import Recommender
from llamarec.serve.app import create_app
from llamarec.serve.limits import Limits
from tests.recommend.conftest import experiment, finished, recommender

__all__ = ["experiment", "finished", "recommender"]


@pytest.fixture(scope="session")
def client(recommender: Recommender) -> Iterator[TestClient]:
    with TestClient(create_app(recommender, Limits(max_k=50, max_history=60))) as client:
        yield client
