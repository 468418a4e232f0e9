"""Samples are pure functions of what identifies them; evaluation knows who is covered."""

from __future__ import annotations

import numpy as np
import pytest

from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.ranker.encoding import PromptEncoder
from llamarec.ranker.samples import EvaluationSamples, TrainingSamples, epoch_order
from tests.samples import make_candidates, make_data


@pytest.fixture(scope="module")
def samples(data: PreparedData, encoder: PromptEncoder) -> TrainingSamples:
    return TrainingSamples(data, encoder, seed=3)


def test_one_sample_for_each_training_item_but_the_first(samples: TrainingSamples, data: PreparedData) -> None:
    assert len(samples) == sum(len(data.sequences.train(user)) - 1 for user in range(data.num_users))
    index = 0
    for user in range(data.num_users):
        items = data.sequences.train(user).tolist()
        for position in range(1, len(items)):
            prompt = samples.prompt(0, index)
            assert prompt.history == items[:position][-20:]
            assert prompt.candidates[prompt.label] == items[position]
            index += 1


def test_negatives_are_distinct_and_not_of_the_history(samples: TrainingSamples) -> None:
    for index in range(len(samples)):
        prompt = samples.prompt(1, index)
        assert len(set(prompt.candidates)) == 20
        assert not set(prompt.candidates) & set(prompt.history)
        assert 0 not in prompt.candidates


def test_where_people_come_back_the_history_may_be_a_candidate(encoder: PromptEncoder) -> None:
    repeating = make_data(num_users=30, num_items=45, has_repeats=True)
    samples = TrainingSamples(repeating, encoder, seed=0)
    prompts = [samples.prompt(0, index) for index in range(len(samples))]
    assert any(set(prompt.candidates) & set(prompt.history) for prompt in prompts)
    assert all(len(set(prompt.candidates)) == 20 for prompt in prompts)


def test_a_sample_depends_on_seed_epoch_and_index_alone(
    samples: TrainingSamples, data: PreparedData, encoder: PromptEncoder
) -> None:
    np.random.seed(99)
    again = TrainingSamples(data, encoder, seed=3)
    assert [samples[0, i] for i in (5, 2, 5)] == [again[0, i] for i in (5, 2, 5)]
    assert samples.prompt(0, 5) != samples.prompt(1, 5)
    assert samples.prompt(0, 5) != TrainingSamples(data, encoder, seed=4).prompt(0, 5)


def test_labels_fall_on_every_letter_alike(samples: TrainingSamples) -> None:
    places = [samples.prompt(epoch, i).label for epoch in range(20) for i in range(len(samples))]
    counts = np.bincount(places, minlength=20)
    expected = len(places) / 20
    # Chi-square with 19 degrees of freedom: 43.8 is its 99.9% point.
    assert ((counts - expected) ** 2 / expected).sum() < 43.8


def test_the_order_is_a_permutation_that_differs_by_epoch() -> None:
    first, second = epoch_order(100, 7, 0), epoch_order(100, 7, 1)
    assert sorted(first) == sorted(second) == list(range(100))
    assert first.tolist() != second.tolist()
    assert first.tolist() == epoch_order(100, 7, 0).tolist()


def test_too_few_items_to_draw_from_is_said(encoder: PromptEncoder) -> None:
    with pytest.raises(ArtifactError, match=r"(?s)too few items.*next: +--num_candidates \d+") as refused:
        TrainingSamples(make_data(num_users=3, num_items=20), encoder, seed=0)
    assert refused.value.retry_with[0] == "--num_candidates"


def test_as_few_items_as_suffice_for_every_prompt_are_taken(encoder: PromptEncoder) -> None:
    # The users' lengths are the same whatever the number of items.
    longest = int(make_data().sequences.train_ends.max())
    data = make_data(num_items=20 + longest - 1)
    samples = TrainingSamples(data, encoder, seed=0)
    for index in range(len(samples)):
        prompt = samples.prompt(0, index)
        assert len(set(prompt.candidates)) == 20
        assert not set(prompt.candidates) & set(prompt.history)
    with pytest.raises(ArtifactError, match="too few items"):
        TrainingSamples(make_data(num_items=20 + longest - 2), encoder, seed=0)


def test_evaluation_asks_only_about_covered_users(data: PreparedData, encoder: PromptEncoder) -> None:
    candidates = make_candidates(data)["test"]
    samples = EvaluationSamples(data, candidates, encoder, "test", max_users=0)
    assert len(samples.user_ids) == len(candidates.user_ids)
    assert len(samples) == int((candidates.label_ranks > 0).sum())
    for index in range(len(samples)):
        user, prompt = int(samples.user_ids[samples.rows[index]]), samples.prompt(index)
        assert prompt.candidates[prompt.label] == data.sequences.label(user, "test")
        assert prompt.history == data.sequences.history(user, "test")[-20:].tolist()
        assert samples[index]["input_ids"] == encoder.encode(prompt.history, prompt.candidates)
        assert samples[index]["label"] == prompt.label
    lengths = [len(samples[i]["input_ids"]) for i in range(len(samples))]
    assert lengths == sorted(lengths)


def test_ranks_of_prompts_become_ranks_of_users(data: PreparedData, encoder: PromptEncoder) -> None:
    samples = EvaluationSamples(data, make_candidates(data)["validation"], encoder, "validation", max_users=0)
    places = np.array([samples[i]["label"] + 1 for i in range(len(samples))])
    assert samples.ranks(places).tolist() == samples.retriever_ranks.tolist()


def test_the_part_of_the_users_is_fixed(data: PreparedData, encoder: PromptEncoder) -> None:
    candidates = make_candidates(data)["test"]
    parts = [EvaluationSamples(data, candidates, encoder, "test", max_users=12).user_ids.tolist() for _ in range(2)]
    assert parts[0] == parts[1]
    assert len(parts[0]) == 12


def test_a_label_beyond_the_letters_is_not_covered(data: PreparedData, tokenizer: object) -> None:
    from llamarec.ranker.prompt import PromptTemplate

    few = PromptEncoder(tokenizer, data.titles, PromptTemplate(), num_candidates=5)
    candidates = make_candidates(data)["test"]
    samples = EvaluationSamples(data, candidates, few, "test", max_users=0)
    assert len(samples) == int(((candidates.label_ranks > 0) & (candidates.label_ranks <= 5)).sum())
