"""Retriever and titles: the weight is found where there is one, and is 0 where words say nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.experts.title_words import TitleSimilarity
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.evaluation_samples import EvaluationSamples
from llamarec.ranker.prompts.first_stage import FirstStage, first_stage_text, fit_first_stage, stored_first_stage
from llamarec.retriever.candidates import Candidates
from tests.samples import make_candidates


def _drawn(data: PreparedData, title_weight: float, *, repeats: int = 20, seed: int = 0) -> Candidates:
    """Labels drawn from softmax(score + title_weight * similarity), several for each validation user."""
    rng = np.random.default_rng(seed)
    rows = make_candidates(data)["validation"]
    users, items = np.repeat(rows.user_ids, repeats), np.repeat(rows.item_ids, repeats, axis=0)
    scores = rng.normal(size=items.shape).astype(np.float32)
    similarity = TitleSimilarity(data.titles)
    logits = scores + title_weight * np.array(
        [
            similarity(data.sequences.history(int(user), "validation"), of_user)
            for user, of_user in zip(users, items, strict=True)
        ]
    )
    labels: NDArray[np.int64] = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    label_ids = items[np.arange(len(items)), labels]
    return Candidates(users, items, scores, label_ids, (labels + 1).astype(np.int32))


def test_the_weight_is_found(data: PreparedData) -> None:
    found = fit_first_stage(data, _drawn(data, 2.0, repeats=200), 20)
    assert found.title_weight == pytest.approx(2.0, rel=0.25)
    assert found.gain > 0
    assert "x similarity to the history" in first_stage_text(found)


def test_words_that_say_nothing_get_no_weight(data: PreparedData) -> None:
    found = [fit_first_stage(data, _drawn(data, 0.0, seed=seed), 20) for seed in range(10)]
    # By chance one may pass; what passes must be small.
    assert sum(one.title_weight > 0 for one in found) <= 3
    assert max(one.title_weight for one in found) < 1.0
    assert "not used" in first_stage_text(next(one for one in found if not one.title_weight))


def test_a_negative_weight_is_not_used_and_said(data: PreparedData) -> None:
    found = fit_first_stage(data, _drawn(data, -2.0, repeats=200), 20)
    assert found.title_weight == 0
    assert found.gain > 0
    assert "users take items with dissimilar titles next" in first_stage_text(found)


def test_only_users_whose_label_is_among_the_candidates_are_fitted_on(data: PreparedData) -> None:
    rows = _drawn(data, 2.0)
    missed = rows.label_ranks.copy()
    missed[::2] = 0
    assert fit_first_stage(data, replace(rows, label_ranks=missed), 20).num_prompts == len(missed) // 2
    # A prompt with fewer candidates has fewer labels.
    assert fit_first_stage(data, rows, 5).num_prompts == int((rows.label_ranks <= 5).sum())
    assert fit_first_stage(data, replace(rows, label_ranks=np.zeros_like(missed)), 20) == FirstStage()


def test_samples_have_scores_of_their_own_order(data: PreparedData, encoder: PromptEncoder) -> None:
    first_stage = stored_first_stage(data.titles, 3.0)
    rows = make_candidates(data)["test"]
    samples = EvaluationSamples(data, rows, encoder, "test", max_users=0, first_stage=first_stage)
    plain = EvaluationSamples(data, rows, encoder, "test", max_users=0)
    assert (plain.first_stage_PC == plain.scores_PC).all()
    assert not plain.similarities_PC.any()
    assert samples.similarities_PC.any()
    for order in (samples, samples.reordered("reversed")):
        prompt = len(order) // 2
        taken = data.sequences.history(int(order.user_ids[order.rows[prompt]]), "test")
        similarities = TitleSimilarity(data.titles)(taken, order.candidates_PC[prompt])
        expected = order.scores_PC[prompt] + 3.0 * similarities
        assert order.first_stage_PC[prompt] == pytest.approx(expected)
    # What is better liked is ranked higher, whatever the letters say.
    assert (samples.ranks_by(samples.first_stage_PC) != samples.retriever_ranks).any()


def test_without_titles_it_is_the_retrievers_score() -> None:
    scores = np.array([[1.0, 2.0]])
    assert stored_first_stage(["", "a", "a"], 0.0).scores(scores, np.ones((1, 2))) is scores
    assert stored_first_stage(["", "a", "a"], 0.0).similarities(np.array([1]), np.array([1, 2])).tolist() == [0, 0]
