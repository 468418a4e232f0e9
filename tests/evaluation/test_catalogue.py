"""A test over the whole catalogue in words: the formula, what the language model adds, the verdict."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from llamarec.evaluation.catalogue import CatalogueRanks, CatalogueWeights, outcome_of
from llamarec.evaluation.catalogue_tables import catalogue_text, print_catalogue_test

COUNTS = CatalogueWeights(0.5, 0.04, 0.01, 480, 500, 3, {"lrurec": 0.6, "titles": 0.0, "language_model": 0.5})
NOTHING = CatalogueWeights(0.0, 0.001, 0.01, 480, 500, 3, {"lrurec": 1.0, "language_model": 0.0})


def said(known: list[int], final: list[int], weights: CatalogueWeights) -> str:
    ranks = CatalogueRanks(*(np.array(one * 60) for one in (known, final, final)))
    console = Console(record=True, width=80)
    print_catalogue_test(outcome_of(ranks, weights), console, title="test of a")
    return " ".join(console.export_text().split())


@pytest.mark.parametrize(
    ("known", "final", "weights", "verdict"),
    [
        ([9, 8], [1, 2], COUNTS, "The ranker is better than its first stage (overall ndcg@10, 120 users)."),
        ([1, 2], [9, 8], COUNTS, "The ranker is worse than its first stage (overall ndcg@10, 120 users), unlike on"),
        ([3, 3], [3, 3], COUNTS, "Ranker and first stage cannot be told apart (overall ndcg@10, 120 users)."),
        ([3, 3], [3, 3], NOTHING, "The ranker's order is the first stage's: the language model has no weight yet."),
    ],
)
def test_the_verdict_is_about_the_first_stage(
    known: list[int], final: list[int], weights: CatalogueWeights, verdict: str
) -> None:
    text = said(known, final, weights)
    assert verdict in text
    assert "retriever" not in text


def test_the_formula_has_every_term_and_what_the_language_model_adds() -> None:
    assert catalogue_text(COUNTS) == (
        "ranker = 0.60 lrurec + 0.50 language_model; beside all others the language model adds +0.0400 nats per user, "
        "standard error 0.0100, 480 validation users"
    )
    assert "(+0.0010 nats per user, standard error 0.0100, 480 validation users)" in catalogue_text(NOTHING)


def test_a_run_of_an_earlier_version_has_a_weight_beside_the_first_stage() -> None:
    text = catalogue_text(CatalogueWeights(0.5, 0.04, 0.01, 480, 500, 3))
    assert text.startswith("ranker = first stage + 0.500 x language model's logit (+0.0400 nats per user")
