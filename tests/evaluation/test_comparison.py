"""Side by side: what is subset, what is overall, and what the interval means."""

import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from llamarec.evaluation.comparison import Comparison, Row, compare_ranks, paired_bootstrap
from llamarec.evaluation.fusion import Fusion
from llamarec.evaluation.outcome import Outcome
from llamarec.evaluation.tables import print_test

# Four users; the third one's item is not among the candidates. The ranker lifts the first from place 2 to 1.
RETRIEVER = np.array([2, 1, 0, 4])
RANKER = np.array([1, 1, 0, 4])
TITLES = np.array([2, 1, 0, 3])
FUSION = Fusion(1.0, 0.5, 1.0, (0.0,) * 20, num_prompts=100)


def _printed(comparison: Comparison, fusion: Fusion = FUSION) -> str:
    console = Console(width=80)
    letters, titles, added = (
        compare_ranks(RETRIEVER, RANKER),
        compare_ranks(RETRIEVER, TITLES),
        compare_ranks(TITLES, RANKER),
    )
    outcome = Outcome(comparison, letters, fusion, None, titles, added)
    with console.capture() as capture:
        print_test(outcome, console, title="test")
    return capture.get()


def _row(rows: list[Row], metric: str) -> Row:
    return next(row for row in rows if row.metric == metric)


def test_what_titles_and_what_letters_do_is_told_apart() -> None:
    text = " ".join(_printed(compare_ranks(RETRIEVER, RANKER), replace(FUSION, title_weight=1.5)).split())
    # Places 2, 1 and 3 of four users; letters bring the first from 2 to 1 and the last from 3 to 4.
    assert "0.50 x (retriever score + 1.50 x title similarity), standardised" in text
    assert f"retriever and titles reach ndcg@10 {(1 / math.log2(3) + 1 + 1 / 2) / 4:.4f} overall" in text
    assert f"its letters add {(1 - 1 / math.log2(3) + 1 / math.log2(5) - 1 / 2) / 4:+.4f}" in text
    assert "Without the language model" not in _printed(compare_ranks(RETRIEVER, RANKER))


def test_without_letters_the_verdict_is_of_the_titles() -> None:
    quiet = replace(FUSION, letters=0.0, title_weight=1.5)
    text = " ".join(_printed(compare_ranks(RETRIEVER, TITLES), quiet).split())
    assert "The ranker's order is that of retriever and titles: its letters have no weight yet." in text
    assert "cannot be told apart with 4 users" in text


def test_subset_is_over_covered_users_and_overall_over_all() -> None:
    comparison = compare_ranks(RETRIEVER, RANKER)
    assert (comparison.num_users, comparison.num_covered, comparison.coverage) == (4, 3, 3 / 4)
    assert _row(comparison.subset, "recall@1").retriever == pytest.approx(1 / 3)
    assert _row(comparison.subset, "recall@1").ranker == pytest.approx(2 / 3)
    assert _row(comparison.overall, "recall@1").ranker == pytest.approx(2 / 4)


def test_overall_is_coverage_times_subset_for_every_metric() -> None:
    comparison = compare_ranks(RETRIEVER, RANKER)
    for subset, overall in zip(comparison.subset, comparison.overall, strict=True):
        assert overall.ranker == pytest.approx(comparison.coverage * subset.ranker)
        assert overall.retriever == pytest.approx(comparison.coverage * subset.retriever)


def test_difference_shows_its_arithmetic() -> None:
    row = _row(compare_ranks(RETRIEVER, RANKER).subset, "ndcg@10")
    assert row.difference == pytest.approx((1 - 1 / math.log2(3)) / 3)


def test_equal_rankings_have_an_interval_of_zero() -> None:
    row = _row(compare_ranks(RETRIEVER, RETRIEVER).overall, "ndcg@10")
    assert (row.difference, row.low, row.high) == (0.0, 0.0, 0.0)


def test_interval_agrees_with_the_normal_one_for_many_users() -> None:
    # Half of 10,000 users gain 1, half nothing: mean 0.5, standard error 0.5 / 100.
    low, high = paired_bootstrap(np.array([[1.0], [0.0]]), np.array([5000, 5000]))
    assert low[0] == pytest.approx(0.5 - 1.96 * 0.005, abs=0.001)
    assert high[0] == pytest.approx(0.5 + 1.96 * 0.005, abs=0.001)


def test_no_covered_user_gives_zeros_not_a_crash() -> None:
    comparison = compare_ranks(np.zeros(3, dtype=int), np.zeros(3, dtype=int))
    assert _row(comparison.subset, "ndcg@10") == Row("ndcg@10", 0.0, 0.0, 0.0, 0.0, 0.0)


def test_unpaired_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        compare_ranks(np.zeros(3, dtype=int), np.zeros(4, dtype=int))


def test_the_table_says_which_is_which_in_80_columns() -> None:
    text = _printed(compare_ranks(RETRIEVER, RANKER))
    assert "subset: the 3 users" in text
    assert "overall: all 4 users" in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    ("ranker", "verdict"),
    [
        ([1] * 50, "is better than its first stage"),
        ([9] * 50, "is worse than its first stage"),
        ([2] * 50, "cannot be told apart"),
    ],
)
def test_one_sentence_says_whether_the_ranker_helps(ranker: list[int], verdict: str) -> None:
    text = _printed(compare_ranks(np.full(50, 2), np.array(ranker)))
    assert verdict in " ".join(text.split())


def test_where_letters_add_nothing_it_is_said() -> None:
    text = " ".join(_printed(compare_ranks(RETRIEVER, RETRIEVER), Fusion(0.0, 1.0, 1.0, (0.0,) * 20)).split())
    assert "do not add more than a standard error" in text
