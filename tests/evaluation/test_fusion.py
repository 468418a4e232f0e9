"""Fusion: its arithmetic, what it finds where the truth is known, and that it never trusts what knows nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from llamarec.errors import ArtifactError
from llamarec.evaluation.fusion import FUSION_FILE, Fusion, fit_fusion, prior_of, read_fusion
from llamarec.evaluation.logit import _penalised, conditional_logit, deviation_of, log_softmax, standardised
from llamarec.evaluation.metrics import ndcg_at, score_ranks

Drawn = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


def _drawn(num_prompts: int, letters: float, retriever: float, *, bias: float = 0.0, seed: int = 0) -> Drawn:
    """Logits, retriever's scores and labels drawn from softmax(letters * logits + retriever * scores)."""
    rng = np.random.default_rng(seed)
    logits, scores = rng.normal(size=(num_prompts, 20)), rng.normal(size=(num_prompts, 20))
    p = np.exp(log_softmax(letters * logits + retriever * scores))
    labels = np.array([rng.choice(20, p=row) for row in p])
    # A liking for the first letters that has nothing to do with what is behind them.
    return logits + bias * np.linspace(1, -1, 20), 3 * scores + 7, labels


def _fitted(
    logits: NDArray[np.float64], retriever: NDArray[np.float64], labels: NDArray[np.int64], **more: int
) -> Fusion:
    prior = prior_of(logits)
    return fit_fusion(log_softmax(logits) - prior, retriever, labels, prior_C=prior, **more)


def test_a_score_shows_its_arithmetic() -> None:
    fusion = Fusion(1.0, 2.0, 5.0, (math.log(0.5), math.log(0.5)))
    logits, retriever = np.array([[math.log(3), 0.0]]), np.array([[10.0, 20.0]])
    # Probabilities 3/4 and 1/4, by a prior of 1/2 each; the retriever's scores are 5 below and above their mean.
    assert fusion.scores(logits, retriever)[0] == pytest.approx([math.log(3 / 2) - 2, math.log(1 / 2) + 2])


def test_standardised_scores_keep_how_sure_the_retriever_was() -> None:
    scores = np.array([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0], [10.0, 20.0, 60.0]])
    z = standardised(scores, deviation_of(scores))
    assert z.mean(axis=1) == pytest.approx([0, 0, 0])
    assert z.std() == pytest.approx(1)
    assert z[1].tolist() == [0, 0, 0]
    assert z[2] == pytest.approx(10 * z[0])
    assert deviation_of(scores[1:2]) == deviation_of(scores[:0]) == 1


def test_the_weights_of_the_truth_are_found() -> None:
    fusion = _fitted(*_drawn(4000, 0.8, 1.2), num_users=9000, step=7)
    assert fusion.letters == 1
    # The retriever's scores are three times those of the truth, and in units of their deviation as large.
    assert fusion.deviation == pytest.approx(3, abs=0.1)
    assert fusion.alpha == pytest.approx(1.2 / 0.8, abs=0.1)
    assert fusion.gain > 0.1
    assert (fusion.num_prompts, fusion.num_users, fusion.step) == (4000, 9000, 7)


def test_a_liking_for_letters_is_taken_off() -> None:
    logits, retriever, labels = _drawn(2000, 1.0, 0.0, bias=3.0)
    with_prior = _fitted(logits, retriever, labels)
    without = fit_fusion(log_softmax(logits), retriever, labels, prior_C=np.zeros(20))
    assert np.diff(with_prior.letter_prior) == pytest.approx([-6 / 19] * 19, abs=0.15)
    assert set(without.letter_prior) == {0.0}
    ndcg = [ndcg_at(score_ranks(one.scores(logits, retriever), labels), 10) for one in (with_prior, without)]
    assert ndcg[0] > ndcg[1] + 0.1


@pytest.mark.parametrize("seed", range(5))
def test_letters_that_know_nothing_leave_the_retriever_order(seed: int) -> None:
    # Letters that mislead: their weight in the truth is below 0.
    logits, retriever, labels = _drawn(300, -0.3, 1.0, seed=seed)
    fusion = _fitted(logits, retriever, labels)
    assert fusion.letters == 0
    ranks = score_ranks(fusion.scores(logits, retriever), labels)
    assert ranks.tolist() == score_ranks(retriever, labels).tolist()


def test_noise_costs_nothing_on_average() -> None:
    """Fitted on 200 prompts with letters of pure noise, tested on others: what is lost is within noise of none."""
    lost = []
    for seed in range(40):
        logits, retriever, labels = _drawn(2200, 0.0, 1.0, seed=seed)
        fusion = _fitted(logits[:200], retriever[:200], labels[:200])
        ranks = [score_ranks(one[200:], labels[200:]) for one in (retriever, fusion.scores(logits, retriever))]
        lost.append(ndcg_at(ranks[0], 10) - ndcg_at(ranks[1], 10))
    assert np.mean(lost) < 0.001
    assert np.mean(np.array(lost) == 0) > 0.85


@pytest.mark.parametrize("scale", [0.02, 1.0, 50.0])
def test_how_boldly_the_letters_speak_changes_nothing(scale: float) -> None:
    logits, retriever, labels = _drawn(600, 1.0, 1.0)
    one, other = (_fitted(scale * logits if scaled else logits, retriever, labels) for scaled in (False, True))
    assert other.alpha / scale == pytest.approx(one.alpha, rel=0.02)


@pytest.mark.parametrize("seed", range(20))
def test_the_fit_arrives_whatever_the_tails(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.standard_t(1.5, size=(200, 20, 2)) * np.array([50.0, 1.0])
    labels = np.array([rng.choice(20, p=row) for row in np.exp(log_softmax(features @ np.array([0.05, 1.0])))])
    weights = conditional_logit(features, labels)
    # At the optimum of a concave function no step of any direction helps.
    best = _penalised(features, labels, weights)
    for step in (1e-3, -1e-3):
        for axis in np.eye(2):
            assert _penalised(features, labels, weights + step * axis) <= best + 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_not_used(bad: float) -> None:
    logits, retriever, labels = _drawn(100, 1.0, 1.0)
    logits[3, 4] = bad
    assert _fitted(logits, retriever, labels).letters == 0


def test_no_prompts_leave_the_retriever_order() -> None:
    nothing = np.zeros((0, 20))
    fusion = _fitted(nothing, nothing, np.zeros(0, dtype=np.int64))
    assert (fusion.letters, fusion.alpha) == (0.0, 1.0)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_fusion(tmp_path) is None
    fusion = _fitted(*_drawn(200, 1.0, 1.0))
    (tmp_path / FUSION_FILE).write_bytes(fusion.as_bytes())
    assert read_fusion(tmp_path) == fusion


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"letters": 1, "letter_prior": ["x"]})])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FUSION_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"fusion\.json: cannot be read"):
        read_fusion(tmp_path)


def test_a_file_from_before_there_were_titles_is_read(tmp_path: Path) -> None:
    content = json.loads(Fusion(1.0, 2.0, 5.0, (0.0,) * 20, title_weight=3.0).as_bytes())
    del content["title_weight"]
    (tmp_path / FUSION_FILE).write_text(json.dumps(content), encoding="utf-8")
    read = read_fusion(tmp_path)
    assert read is not None
    assert (read.alpha, read.title_weight) == (2.0, 0.0)
