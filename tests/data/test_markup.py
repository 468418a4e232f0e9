"""Remains of web pages in titles: removed; what only looks like them stays."""

from __future__ import annotations

import html
import time

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamarec.data.markup import without_markup
from llamarec.data.recipe import clean_titles
from llamarec.texts import normal

MARKUP = {
    '<span id="productTitle" class="a-size-large">Red kettle</span>': "Red kettle",
    "<span>Red</span> kettle": "Red kettle",
    "Red <b>kettle</b>": "Red kettle",
    "Red <B>kettle</B>": "Red kettle",
    "Red kettle</span>": "Red kettle",
    "<span>Red kettle": "Red kettle",
    "Red<br>kettle": "Red kettle",
    "Red<br/>kettle": "Red kettle",
    "Red <a href='/dp/1'>kettle</a>": "Red kettle",
    "H<sub>2</sub>O bottle": "H2O bottle",
    "<div><p>Red kettle</p></div>": "Red kettle",
    "Red kettle <img src=x.png>": "Red kettle",
    "Red <!-- hidden --> kettle": "Red kettle",
    "Red kettle<script>var a = 1 < 2;</script>": "Red kettle",
    "Red<style type='text/css'>.a { b: c }</style> kettle": "Red kettle",
    "Red kettle <script type='text/javascript'>var aPageStart = (new Date()).getTime();": "Red kettle",
    "Red kettle var aPageStart = (new Date()).getTime();": "Red kettle",
    "Red kettle (new Date()).getTime();": "Red kettle",
    "Red kettle x.getTime();": "Red kettle",
    "var aPageStart = (new Date()).getTime();\n var ue_t0=ue_t0||+new Date();": "",
    "Red kettle (function(d,e){ return d })": "Red kettle",
    "ue_csm.ue.exec(function(b,e){var t = f.getTime();})": "",
    "Red kettle ue.exec(function(b,e){var t = f.getTime();})": "Red kettle",
    "(function(d,e){ return d })": "",
    "window.ue_ihb = (window.ue_ihb || 0) + 1;": "",
    "<script>var aPageStart = (new Date()).getTime();</script>": "",
    "<span></span>": "",
    "Red kettle <span": "Red kettle",
    'Red kettle <span class="a-size': "Red kettle",
    "&lt;span class=&quot;x&quot;&gt;Red kettle&lt;/span&gt;": "Red kettle",
}
TEXT = [
    "a < b",
    "a<b and b>c",
    "I <3 cats",
    "5 < 7 > 3",
    "vector<int> in C++",
    "The <canvas> element",
    "Learn <a> and <p> in a day",
    "Price <$10",
    "<Untitled>",
    "<<Best of>>",
    "x -> y",
    "A new Date Night",
    "Variable functions (a, b)",
    "The function of art",
    "Window.",
    "if (a) then b",
    "Tom & Jerry",
    "<",
    "3 <b",
]


@pytest.mark.parametrize(("given", "expected"), MARKUP.items())
def test_remains_of_a_page_are_removed(given: str, expected: str) -> None:
    assert normal(without_markup(html.unescape(given))) == expected


@pytest.mark.parametrize("title", TEXT)
def test_what_only_looks_like_markup_stays(title: str) -> None:
    assert without_markup(title) == title


@given(st.text(alphabet="ab <>/=\"'span3 ", max_size=40))
def test_a_cleaned_text_has_no_element_that_formats_text(text: str) -> None:
    once = without_markup(text)
    assert len(once) <= len(text) + text.count("<")
    assert "<span>" not in once or "<span>" in text


@given(st.text(alphabet=st.characters(exclude_characters="<"), max_size=40))
def test_a_text_without_a_bracket_or_script_stays(text: str) -> None:
    assert text.startswith(without_markup(text))


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "a.",
        " ",
        "(",
        "<",
        "<a ",
        "a(",
        "<!--",
        "<script>",
        "var ",
        "function",
        "function ",
        "new Date(",
        "<span a=b ",
    ],
)
def test_no_text_takes_long(part: str) -> None:
    text = part * (100_000 // len(part))
    begun = time.perf_counter()
    without_markup(text)
    assert time.perf_counter() - begun < 2


def test_a_long_title_stays_whole() -> None:
    title = "A long title " * 1_000
    assert without_markup(title) == title


def test_a_title_that_was_nothing_else_is_none() -> None:
    items = pl.DataFrame({"item": ["a", "b", "c"], "title": ["<span></span>", "<b>B</b>", "var x = f.getTime();"]})
    assert clean_titles(items).select("item", "title").rows() == [("b", "B")]
