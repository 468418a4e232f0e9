"""Words as vectors, and how alike titles are by them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llamarec.experts.title_words import TitleSimilarity, tf_idf

# Item 0 is padding. "red" is in 2 of 5 titles, "shoe" in 3, the others in one.
TITLES = ["", "red shoe", "blue shoe", "Red hat", "shoe"]
RED, SHOE, RARE = math.log(5 / 2), math.log(5 / 3), math.log(5)


def _like(history: list[int], candidates: list[int]) -> list[float]:
    """The sum of cosines that is in the logarithm."""
    found = TitleSimilarity(TITLES)(np.array(history), np.array(candidates))
    return [(math.exp(one) - 1) / 3 for one in found.tolist()]


def test_similarity_shows_its_arithmetic() -> None:
    shoe = SHOE / math.hypot(RED, SHOE) * SHOE / math.hypot(RARE, SHOE)
    red = RED / math.hypot(RED, SHOE) * RED / math.hypot(RED, RARE)
    assert _like([1], [1, 2, 3]) == pytest.approx([1.0, shoe, red])


def test_an_older_item_counts_less() -> None:
    assert _like([4, 3], [4, 3]) == pytest.approx([0.8, 1.0])
    assert _like([3, 4], [4, 3]) == pytest.approx([1.0, 0.8])


def test_only_the_last_twenty_items_count() -> None:
    assert _like([4, *[3] * 20], [4]) == [0.0]
    assert _like([4, *[3] * 19], [4])[0] == pytest.approx(0.8**19)


def test_without_words_nothing_is_alike() -> None:
    assert _like([0], [1, 4]) == [0.0, 0.0]
    assert _like([], [1]) == [0.0]
    assert TitleSimilarity(["", "", ""])(np.array([1]), np.array([1, 2])).tolist() == [0.0, 0.0]


def test_words_can_be_too_rare_or_too_frequent() -> None:
    assert tf_idf(TITLES).shape == (5, 4)
    assert tf_idf(TITLES, min_titles=2).shape == (5, 2)
    assert tf_idf(TITLES, min_titles=2, max_share=0.4).shape == (5, 1)
