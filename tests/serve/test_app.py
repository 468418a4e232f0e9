"""What the service answers, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llamarec.recommend.recommender import Recommender
from llamarec.serve.app import create_app
from llamarec.serve.limits import Limits


def test_a_history_and_a_user_get_what_the_recommender_says(client: TestClient, recommender: Recommender) -> None:
    found = client.post("/recommend", json={"history": ["i3", "film <4> & MORE"], "k": 4})
    assert found.status_code == 200
    assert found.json()["history"] == [{"item": f"i{n}", "title": f"Film <{n}> & more"} for n in (3, 4)]
    wanted = recommender.recommend(["i3", "i4"], k=4)
    assert [one["item"] for one in found.json()["recommendations"]] == [one.item for one in wanted]
    assert found.json()["recommendations"][0]["score"] == pytest.approx(wanted[0].score, abs=1e-4)
    of_user = client.post("/recommend", json={"user": "u3"}).json()["recommendations"]
    assert [one["item"] for one in of_user] == [one.item for one in recommender.recommend(user="u3")]


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ({}, 422, "either user or history"),
        ({"user": "u1", "history": ["i1"]}, 422, "either user or history"),
        ({"history": []}, 422, "history"),
        ({"history": [""]}, 422, "history"),
        ({"history": ["i1"] * 61}, 422, "60"),
        ({"user": "u1", "k": 51}, 422, "50"),
        ({"user": "u1", "k": 0}, 422, "k"),
        ({"user": "u1", "kk": 1}, 422, "kk"),
        ({"user": "nobody"}, 404, "no user 'nobody'"),
        ({"history": ["Film"]}, 404, "no item has the key or title 'Film'"),
        ([], 422, "body"),
    ],
)
def test_what_does_not_fit_is_a_problem(client: TestClient, content: Any, status: int, said: str) -> None:
    found = client.post("/recommend", json=content)
    assert found.status_code == status
    assert set(found.json()) == {"detail", "near"}
    assert said in found.json()["detail"]


def test_near_titles_come_with_an_unknown_one(client: TestClient) -> None:
    found = client.post("/recommend", json={"history": ["Film 3 and more"]})
    assert found.json()["near"][0] == "Film <3> & more"


def test_paths_and_methods_that_are_not_there(client: TestClient) -> None:
    for found, status in ((client.get("/nothing"), 404), (client.get("/recommend"), 405)):
        assert found.status_code == status
        assert set(found.json()) == {"detail", "near"}
        assert "see /openapi.json" in found.json()["detail"]
    assert "POST was expected" in client.get("/recommend").json()["detail"]
    unsaid = client.post("/recommend", content=b'{"user": "u1"}', headers={"Content-Type": "text/plain"})
    assert unsaid.status_code == 422
    assert "Content-Type: application/json" in unsaid.json()["detail"]
    assert client.post("/recommend", content=b"{not json").status_code == 422
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404, "those pages load scripts from elsewhere"


def test_items_are_found_by_words(client: TestClient) -> None:
    assert client.get("/items", params={"query": "more fil", "limit": 3}).json()[0].keys() == {"item", "title"}
    assert len(client.get("/items", params={"query": "more fil", "limit": 3}).json()) == 3
    assert client.get("/items", params={"query": "59"}).json() == [{"item": "i59", "title": "Film <59> & more"}]
    assert client.get("/items", params={"query": "nothing"}).json() == []
    assert client.get("/items", params={"query": "x", "limit": 0}).status_code == 422


def test_health_and_metrics_tell_what_happened(recommender: Recommender) -> None:
    with TestClient(create_app(recommender)) as client:
        client.post("/recommend", json={"user": "u1"})
        client.post("/recommend", json={"user": "nobody"})
        client.get("/some/name/that/nobody/knows")
        health = client.get("/health").json()
        assert health["status"] == "ok"
        assert health["dataset_code"] == "shop"
        assert (health["step"], health["is_best"]) == (recommender.order.adapter.step, True)
        text = client.get("/metrics").text
    assert 'llamarec_requests_total{path="/recommend",status="200"} 1.0' in text
    assert 'llamarec_requests_total{path="/recommend",status="404"} 1.0' in text
    assert 'llamarec_requests_total{path="other",status="404"} 1.0' in text
    assert "llamarec_batch_size_count 1.0" in text
    assert "llamarec_waiting 0.0" in text
    assert "that/nobody/knows" not in text


def test_a_body_that_is_too_large_is_refused_also_in_pieces(recommender: Recommender) -> None:
    with TestClient(create_app(recommender, Limits(max_body_bytes=200))) as client:
        assert client.post("/recommend", json={"user": "u1"}).status_code == 200
        whole = client.post("/recommend", content=b'{"user": "' + b"u" * 300 + b'"}')
        pieces = client.post("/recommend", content=iter([b'{"user": "'] + [b"u" * 50] * 10))
    for found in (whole, pieces):
        assert found.status_code == 413
        assert set(found.json()) == {"detail", "near"}


def test_only_its_own_names_where_it_is_local(recommender: Recommender) -> None:
    with TestClient(create_app(recommender, allowed_hosts=["127.0.0.1"]), base_url="http://127.0.0.1:8000") as client:
        assert client.get("/health").status_code == 200
        assert client.get("/health", headers={"Host": "elsewhere.example"}).status_code == 400


def test_the_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href)=", page.text)
    assert "innerHTML" not in page.text, "titles are text, whatever they hold"


def test_the_limits_stand_in_the_schema(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Question"]
    assert schema["properties"]["k"]["maximum"] == 50
    assert "60" in str(schema["properties"]["history"])


def test_a_bug_is_a_problem_too(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(recommender, "recommend_many", broken)
    with TestClient(create_app(recommender), raise_server_exceptions=False) as client:
        found = client.post("/recommend", json={"user": "u1"})
    assert found.status_code == 500
    assert set(found.json()) == {"detail", "near"}
    assert "ZeroDivisionError" in found.json()["detail"]


def test_keys_that_are_numbers_may_be_sent_as_numbers(client: TestClient) -> None:
    found = client.post("/recommend", json={"user": 5, "k": 1})
    assert found.status_code == 404
    assert "no user '5'" in found.json()["detail"]
    assert "'7'" in client.post("/recommend", json={"history": ["i1", 7]}).json()["detail"]
    assert client.post("/recommend", json={"user": True}).status_code == 422
