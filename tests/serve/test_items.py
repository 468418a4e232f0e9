"""A run of items over HTTP."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from llamarec.recommend.recommender import Recommender
from llamarec.serve.app import create_app
from llamarec.serve.limits import Limits
from tests.browser import content_of, needs_chromium
from tests.recommend.conftest import item_recommender, item_run, shop
from tests.serve.conftest import serving

__all__ = ["item_recommender", "item_run", "shop"]


@pytest.fixture(scope="module")
def items_client(item_recommender: Recommender) -> Iterator[TestClient]:
    with TestClient(create_app(item_recommender, Limits(max_k=50, max_history=60))) as client:
        yield client


def test_fields_that_do_not_apply_are_null(items_client: TestClient, item_recommender: Recommender) -> None:
    found = items_client.post("/recommend", json={"user": "u3", "k": 4})
    assert found.status_code == 200
    wanted = item_recommender.recommend(user="u3", k=4)
    for one, same in zip(found.json()["recommendations"], wanted, strict=True):
        assert one["item"] == same.item
        assert one["score"] == pytest.approx(same.score, abs=1e-4)
        assert one["language_model_score"] == pytest.approx(same.language_model_score, abs=1e-4)
        assert one["letter"] is one["letter_log_probability"] is one["title_similarity"] is None
    fields = items_client.get("/openapi.json").json()["components"]["schemas"]["Recommended"]["properties"]
    assert set(found.json()["recommendations"][0]) == set(fields)


def test_health_says_what_the_order_consists_of(items_client: TestClient, item_recommender: Recommender) -> None:
    health = items_client.get("/health").json()
    assert health["order"] == item_recommender.order.formula
    assert health["uses_letters"] is True
    assert health["step"] == item_recommender.order.adapter.step


@needs_chromium
def test_the_page_shows_the_sum_and_the_language_models_scores(item_recommender: Recommender) -> None:
    with serving(item_recommender) as address:
        page = content_of(f"{address}?user=u3", "--virtual-time-budget=15000", width=1200, dark=False)
    assert f'<span id="order">{html.escape(item_recommender.order.formula)}</span>' in page
    heads = re.findall(r"<th[^>]*>(.*?)</th>", page)
    assert "language model" in heads
    assert "letter" not in heads
