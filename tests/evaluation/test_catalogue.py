"""The sum of two experts over the whole catalogue: candidates, weight, ranks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from llamarec.evaluation.catalogue import (
    AskedUsers,
    CatalogueWeights,
    fit_catalogue,
    outcome_of,
    rank_catalogue,
)
from llamarec.evaluation.catalogue_tables import print_catalogue_test

NUM_USERS, NUM_ITEMS = 600, 300


class Table:
    """Scores by user."""

    def __init__(self, scores_UN: NDArray[np.float64]) -> None:
        self.scores_UN = scores_UN

    def __call__(self, block: slice) -> NDArray[np.float64]:
        return self.scores_UN[block]


def simulated(strength: float, *, excludes: bool = False, seed: int = 0) -> tuple[Table, Table, AskedUsers]:
    """Labels drawn from the softmax of two scores, the second with this weight."""
    rng = np.random.default_rng(seed)
    known, new = rng.normal(size=(2, NUM_USERS, NUM_ITEMS + 1)) * 2
    drawn = rng.gumbel(size=known.shape) + known + strength * new
    drawn[:, 0] = -np.inf
    labels = drawn.argmax(axis=1)
    histories = [np.array([1 + user % NUM_USERS], dtype=np.int32) for user in range(NUM_USERS)]
    return Table(known), Table(new), AskedUsers(histories, labels, excludes)


def test_the_weight_is_found_and_what_it_adds() -> None:
    known, new, users = simulated(0.5)
    weights = fit_catalogue(known, new, users, step=3)
    assert weights.new == pytest.approx(0.5, abs=0.12)
    assert weights.gain > 3 * weights.error > 0
    assert (weights.num_users, weights.step) == (NUM_USERS, 3)

    ranks = rank_catalogue(known, new, users, weights)
    outcome = outcome_of(ranks, weights)
    row = next(row for row in outcome.comparison.overall if row.metric == "ndcg@10")
    assert row.low > 0
    text = Console(record=True, width=80)
    print_catalogue_test(outcome, text, title="test of a")
    assert "The ranker is better than its retriever" in text.export_text()


def test_noise_gets_no_weight_and_changes_nothing() -> None:
    known, new, users = simulated(0.0)
    weights = fit_catalogue(known, new, users)
    assert weights.new == 0.0
    ranks = rank_catalogue(known, new, users, weights)
    assert (ranks.final == ranks.known).all()
    assert (ranks.new != ranks.known).any()


def test_ranks_are_those_of_the_whole_catalogue() -> None:
    known, new, users = simulated(0.5)
    ranks = rank_catalogue(known, new, users, CatalogueWeights(0.5, 0.1, 0.01, 1, 1))
    final = known.scores_UN + 0.5 * new.scores_UN
    for user in (0, 299, 300, NUM_USERS - 1):
        label = users.labels[user]
        assert ranks.final[user] == 1 + (final[user, 1:] > final[user, label]).sum()
        assert ranks.new[user] == 1 + (new.scores_UN[user, 1:] > new.scores_UN[user, label]).sum()


def test_items_of_the_history_are_left_out() -> None:
    known, new, users = simulated(0.5)
    best = known.scores_UN[:, 1:].argmax(axis=1) + 1
    histories = [np.array([1 + user, best[user]], dtype=np.int32) for user in range(NUM_ITEMS)]
    some = AskedUsers(histories, users.labels[:NUM_ITEMS], excludes=True)
    ranks = rank_catalogue(known, new, some, CatalogueWeights(0.0, 0.0, 0.0, 0, 0))
    taken = users.labels[:NUM_ITEMS] == best[:NUM_ITEMS]
    assert taken.any()
    assert (ranks.known[taken] == 0).all()
    assert fit_catalogue(known, new, some).num_prompts <= NUM_ITEMS - taken.sum()


def test_a_catalogue_smaller_than_the_candidates() -> None:
    rng = np.random.default_rng(0)
    known, new = (Table(rng.normal(size=(12, 13))) for _ in range(2))
    histories = [np.array([1 + user % 12, 1 + (user + 1) % 12], dtype=np.int32) for user in range(12)]
    labels = np.array([1 + (user + 5) % 12 for user in range(12)])
    weights = fit_catalogue(known, new, AskedUsers(histories, labels, excludes=True))
    assert weights.num_prompts == 12
