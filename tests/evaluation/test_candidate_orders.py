"""The same prompts in several orders: what depends on the order is seen, and what does not is 0."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llamarec.evaluation.candidate_orders import OrderedPrompts, order_report
from llamarec.evaluation.fusion import Fusion
from llamarec.evaluation.metrics import in_retriever_order

PLACES = {"retriever's": [0, 1, 2, 3], "reversed": [3, 2, 1, 0], "shuffled 1": [2, 0, 3, 1], "shuffled 2": [1, 3, 0, 2]}
# By place in the retriever's list, the label being in place 1: what the model thinks, and the retriever's scores.
OPINION, RETRIEVER, LABEL = np.array([0.0, 2.0, 1.0, -1.0]), np.array([4.0, 3.0, 2.0, 1.0]), 1
PLAIN = Fusion(1.0, 0.0, 1.0, (0.0,) * 4)


def _asked(liking: float) -> list[OrderedPrompts]:
    """Three equal prompts; `liking` is for the letter A, whatever is behind it."""
    asked = []
    for name, order in PLACES.items():
        places = np.tile(order, (3, 1))
        logits = OPINION[places] + liking * np.array([1.0, 0, 0, 0])
        asked.append(OrderedPrompts(name, logits, RETRIEVER[places], places, np.argmax(places == LABEL, axis=1)))
    return asked


def test_an_opinion_of_items_alone_is_the_same_in_every_order() -> None:
    report = order_report(_asked(0.0), PLAIN)
    assert report.num_prompts == 3
    assert report.spread("letters") == report.spread("final") == 0
    assert report.kept_first == (1.0, 1.0, 1.0)
    assert report.averaged == 1.0
    # A, B, C...: the label's letter is B, C, D or A.
    expected = {1 / np.log2(2 + letter) for letter in (1, 2, 3, 0)}
    assert sorted(row.in_order for row in report.rows) == pytest.approx(sorted(expected))


def test_a_liking_for_a_letter_shows_and_its_prior_takes_it_off() -> None:
    asked = _asked(5.0)
    report = order_report(asked, Fusion(1.0, 0.0, 1.0, (5.0, 0.0, 0.0, 0.0)))
    assert report.spread("letters") > 0
    assert report.kept_first[0] == 0
    assert report.spread("calibrated") == report.spread("final") == pytest.approx(0)
    assert report.kept_first[1:] == (1.0, 1.0)


def test_averaging_is_by_item() -> None:
    # Liked by letter, in two shuffles: +5 once for place 2 and once for place 1, which is the label and better.
    report = order_report(_asked(5.0), PLAIN)
    assert (report.averaged, report.num_averaged) == (1.0, 2)


def test_the_retriever_counts_in_the_average_too() -> None:
    report = order_report(_asked(0.0), Fusion(1.0, 100.0, 1.0, (0.0,) * 4))
    assert report.averaged == 1.0
    # The retriever has the label second.
    assert report.averaged_final == pytest.approx(1 / np.log2(3))


def test_values_by_letter_become_values_by_place() -> None:
    assert in_retriever_order(np.array([[10, 11, 12]]), np.array([[2, 0, 1]])).tolist() == [[11, 12, 10]]


def test_a_report_becomes_json() -> None:
    content = json.loads(json.dumps(order_report(_asked(1.0), PLAIN).as_dict()))
    assert set(content["spread"]) == {"in_order", "letters", "calibrated", "final"}
    assert len(content["rows"]) == 4
