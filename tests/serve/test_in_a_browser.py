"""The page in headless Chromium: it asks, shows both orders, says what is wrong, and fits. Skipped without Chromium."""

from __future__ import annotations

import html
import json
import re
from urllib.parse import urlencode

import pytest

from llamarec.recommend.recommender import Recommender
from tests.browser import content_of, needs_chromium

pytestmark = needs_chromium


def _page(address: str, query: list[tuple[str, str]], *, width: int = 1200, dark: bool = False) -> str:
    """The page's content after it has asked."""
    return content_of(f"{address}?{urlencode(query)}", "--virtual-time-budget=15000", width=width, dark=dark)


def _titles(page: str, table: str) -> list[str]:
    found = re.search(rf'<table id="{table}">(.*?)</table>', page, re.DOTALL)
    assert found is not None
    return re.findall(r'<td class="title">(.*?)</td>', found[1])


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (500, True)])
def test_a_history_in_the_address_is_answered_in_both_orders(
    address: str, recommender: Recommender, width: int, dark: bool
) -> None:
    page = _page(f"{address}/", [("history", "i3"), ("history", "Film <4> & more"), ("k", "5")], width=width, dark=dark)
    assert 'data-ready="yes"' in page
    wanted = recommender.recommend(["i3", "i4"], k=5)
    assert _titles(page, "final") == [html.escape(one.title) for one in wanted]
    assert sorted(_titles(page, "proposed")) == sorted(_titles(page, "final"))
    assert "shop, best adapter of step" in page


def test_a_user_and_an_unknown_title(address: str) -> None:
    assert len(_titles(_page(f"{address}/", [("user", "u3")]), "final")) == 10
    page = _page(f"{address}/", [("history", "Film 3 and more")])
    assert re.search(r'id="problem"[^>]*>no item has .*did you mean: Film &lt;3&gt;', page)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [500, 1200])
def test_nothing_runs_over_the_edge_and_colours_fit(address: str, width: int, dark: bool) -> None:
    page = _page(f"{address}/measured", [("user", "u3"), ("k", "30")], width=width, dark=dark)
    title = re.search(r"<title>(\{.*?\})</title>", page)
    assert title is not None
    seen = json.loads(title[1])
    assert (seen["width"], seen["overflow"]) == (width, 0)
    paper = sum(map(int, re.findall(r"\d+", seen["paper"])[:3]))
    assert paper < 150 if dark else paper > 700
