"""Metrics, with the arithmetic shown: four users whose items stand at places 1, 3, nowhere (0) and 12."""

import math

import numpy as np
import pytest

from llamarec.evaluation.metrics import all_metrics, metric_values, mrr_at, ndcg_at, recall_at, score_ranks

RANKS = np.array([1, 3, 0, 12])


def test_recall_counts_users_within_k() -> None:
    assert recall_at(RANKS, 1) == 1 / 4
    assert recall_at(RANKS, 10) == 2 / 4
    assert recall_at(RANKS, 20) == 3 / 4


def test_ndcg_is_one_over_log2_of_rank_plus_one() -> None:
    assert ndcg_at(RANKS, 10) == pytest.approx((1 / math.log2(2) + 1 / math.log2(4)) / 4)
    assert ndcg_at(RANKS, 20) == pytest.approx((1 + 1 / 2 + 1 / math.log2(13)) / 4)


def test_mrr_is_one_over_rank() -> None:
    assert mrr_at(RANKS, 10) == pytest.approx((1 + 1 / 3) / 4)
    assert mrr_at(RANKS, 20) == pytest.approx((1 + 1 / 3 + 1 / 12) / 4)


def test_a_rank_of_zero_is_a_miss_at_every_cutoff() -> None:
    assert set(all_metrics(np.zeros(5, dtype=int)).values()) == {0.0}


def test_no_users_gives_zero_and_no_warning() -> None:
    assert ndcg_at(np.array([], dtype=int), 10) == 0.0


def test_the_mean_is_over_users_not_over_batches() -> None:
    # Two batches of 3 and 1 users: the mean of batch means would be (1 + 0) / 2.
    ranks = np.array([1, 1, 1, 0])
    assert recall_at(ranks, 10) == 3 / 4


def test_metric_values_by_name() -> None:
    np.testing.assert_allclose(metric_values("mrr@10", RANKS), [1, 1 / 3, 0, 0])
    with pytest.raises(KeyError):
        metric_values("precision@10", RANKS)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_label_whose_score_is_not_finite_has_no_rank(bad: float, listed: bool) -> None:
    assert score_ranks(np.array([[bad, 1.0, 2.0]]), np.array([0]), listed=listed).tolist() == [0]


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(("bad", "rank"), [(np.nan, 0), (np.inf, 0), (-np.inf, 1)])
def test_another_score_that_is_not_finite_spoils_the_rank_unless_it_excludes(
    bad: float, rank: int, listed: bool
) -> None:
    assert score_ranks(np.array([[2.0, 1.0, bad]]), np.array([0]), listed=listed).tolist() == [rank]


def test_a_tie_is_never_to_the_advantage_of_the_label() -> None:
    # Five items of one score: in a list the earlier ones are first, in a catalogue all others are.
    scores, labels = np.zeros((5, 5)), np.arange(5)
    assert score_ranks(scores, labels).tolist() == [1, 2, 3, 4, 5]
    assert score_ranks(scores, labels, listed=False).tolist() == [5] * 5
    # Of two equal leaders the label is second.
    assert score_ranks(np.array([[1.0, 1.0, 0.5]]), np.array([0]), listed=False).tolist() == [2]


def test_no_prompts_have_no_ranks() -> None:
    assert score_ranks(np.zeros((0, 4)), np.zeros(0, dtype=np.int64)).tolist() == []


def test_ranks_of_scores_show_their_arithmetic() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [np.nan, 1.0, 0.0]])
    # Best first: 0, 2, 1; label 2 is second, label 1 third; ties go to the earlier one; not a number is a miss.
    assert score_ranks(scores, np.array([2, 1, 1, 1])).tolist() == [2, 3, 2, 0]
