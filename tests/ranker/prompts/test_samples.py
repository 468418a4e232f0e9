"""Samples are pure functions of what identifies them; evaluation knows who is covered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.evaluation_samples import ORDERS, EvaluationSamples, Order, letter_order
from llamarec.ranker.prompts.training_samples import Negatives, TrainingSamples, epoch_order
from llamarec.retriever.hard_negatives import TrainingLists
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


def _lists(data: PreparedData) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """For each place 19 items that are neither its label nor in the history before it, as a retriever leaves them."""
    rng, every = np.random.default_rng(1), np.arange(1, data.num_items + 1)
    trains = [data.sequences.train(user) for user in range(data.num_users)]
    known = [items[: position + 1] for items in trains for position in range(1, len(items))]
    return np.array([rng.permutation(np.setdiff1d(every, items))[:19] for items in known], dtype=np.int32)


def _proposed(lists: np.ndarray[tuple[int, int], np.dtype[np.int32]], share: float) -> Negatives:
    """Every label is the retriever's first."""
    return Negatives(TrainingLists(lists, np.ones(len(lists), dtype=np.int32)), share)


@pytest.mark.parametrize(("share", "from_list"), [(0.5, 10), (1.0, 19), (0.1, 2)])
def test_a_share_of_the_negatives_is_the_retrievers(
    data: PreparedData, encoder: PromptEncoder, share: float, from_list: int
) -> None:
    lists = _lists(data)
    samples = TrainingSamples(data, encoder, 3, _proposed(lists, share))
    drawn = 0
    for index in range(len(samples)):
        prompt = samples.prompt(0, index)
        wrong = set(prompt.candidates) - {prompt.candidates[prompt.label]}
        assert len(set(prompt.candidates)) == 20
        assert not set(prompt.candidates) & set(prompt.history)
        assert len(wrong & set(lists[index].tolist())) >= from_list
        drawn += len(wrong & set(lists[index].tolist()))
    # What is beyond the share is uniform: 19 of some 70 items are in the list.
    uniform = 19 - from_list
    assert drawn / len(samples) == pytest.approx(from_list + uniform * (19 - from_list) / (65 - from_list), abs=0.5)


@pytest.mark.parametrize("everywhere", [False, True])
def test_only_a_label_that_the_retriever_proposes_has_its_other_proposals_beside_it(
    data: PreparedData, encoder: PromptEncoder, everywhere: bool
) -> None:
    lists = _lists(data)
    label_places = np.arange(len(lists), dtype=np.int32) % 40 + 1
    hard = Negatives(TrainingLists(lists, label_places), 1.0, everywhere=everywhere)
    samples, uniform = TrainingSamples(data, encoder, 3, hard), TrainingSamples(data, encoder, 3)
    assert (samples.num_proposed, uniform.num_proposed) == (int((label_places <= 20).sum()), 0)
    for index, place in enumerate(label_places):
        prompt = samples.prompt(0, index)
        wrong = set(prompt.candidates) - {prompt.candidates[prompt.label]}
        if everywhere or place <= 20:
            assert wrong == set(lists[index].tolist())
        else:
            assert prompt == uniform.prompt(0, index)


def test_hard_negatives_are_shuffled_like_all_others(data: PreparedData, encoder: PromptEncoder) -> None:
    samples = TrainingSamples(data, encoder, 3, _proposed(_lists(data), 1.0))
    places = [samples.prompt(epoch, i).label for epoch in range(20) for i in range(len(samples))]
    counts, expected = np.bincount(places, minlength=20), len(places) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8
    assert samples.prompt(0, 4) == samples.prompt(0, 4) != samples.prompt(1, 4)


def test_a_short_list_is_filled_up(data: PreparedData, encoder: PromptEncoder) -> None:
    lists = _lists(data)
    lists[:, 3:] = 0
    prompt = TrainingSamples(data, encoder, 3, _proposed(lists, 1.0)).prompt(0, 0)
    assert set(lists[0, :3].tolist()) <= set(prompt.candidates)
    assert len(set(prompt.candidates)) == 20
    assert 0 not in prompt.candidates


def test_a_part_of_the_prompts_is_fixed_and_the_same_prompts(data: PreparedData, encoder: PromptEncoder) -> None:
    whole = TrainingSamples(data, encoder, 3)
    every = [whole.prompt(0, index) for index in range(len(whole))]
    part = TrainingSamples(data, encoder, 3, max_prompts=40)
    assert len(part) == 40
    chosen = [every.index(part.prompt(0, index)) for index in range(40)]
    assert chosen == sorted(set(chosen))
    assert np.mean(chosen) == pytest.approx(len(whole) / 2, rel=0.2)
    # Another seed draws other negatives for the same places.
    other = TrainingSamples(data, encoder, 4, max_prompts=40)
    assert [other.prompt(0, i).history for i in range(40)] == [part.prompt(0, i).history for i in range(40)]
    assert len(TrainingSamples(data, encoder, 3, max_prompts=10**6)) == len(whole)


def test_the_latest_prompts_are_each_users_last(data: PreparedData, encoder: PromptEncoder) -> None:
    part = TrainingSamples(data, encoder, 3, max_prompts=data.num_users, latest=True)
    for user in range(data.num_users):
        items, prompt = data.sequences.train(user), part.prompt(0, user)
        assert prompt.history == items[:-1].tolist()
        assert prompt.candidates[prompt.label] == items[-1]
    fewer = TrainingSamples(data, encoder, 3, max_prompts=10, latest=True)
    last = [part.prompt(0, user).history for user in range(data.num_users)]
    assert all(fewer.prompt(0, index).history in last for index in range(10))


@pytest.mark.parametrize("order", ORDERS)
def test_letters_scores_and_places_belong_together(data: PreparedData, encoder: PromptEncoder, order: Order) -> None:
    candidates = make_candidates(data)["test"]
    samples = EvaluationSamples(data, candidates, encoder, "test", max_users=0, order=order)
    for index, row in enumerate(samples.rows):
        best_first, scores = candidates.item_ids[row], candidates.scores[row]
        places = samples.positions_PC[index]
        assert sorted(places) == list(range(20))
        assert samples.candidates_PC[index].tolist() == best_first[places].tolist()
        assert samples.scores_PC[index].tolist() == scores[places].tolist()
        assert samples.candidates_PC[index][samples.labels_P[index]] == candidates.label_ids[row]
    first = samples.positions_PC[:, 0]
    assert {"retriever": (first == 0).all(), "reversed": (first == 19).all(), "shuffled": len(set(first)) > 5}[order]


def test_a_shuffle_depends_on_the_candidates_alone(data: PreparedData, encoder: PromptEncoder) -> None:
    items = np.arange(5, 25, dtype=np.int32)
    assert letter_order(items, "shuffled").tolist() == letter_order(items, "shuffled").tolist()
    assert letter_order(items, "shuffled").tolist() != letter_order(items, "shuffled", 1).tolist()
    assert letter_order(items, "shuffled").tolist() != letter_order(items[::-1].copy(), "shuffled").tolist()
    samples = EvaluationSamples(data, make_candidates(data)["test"], encoder, "test", max_users=0)
    again = samples.reordered("shuffled", max_prompts=7)
    assert len(again) == 7
    by_row = {int(row): samples[index] for index, row in enumerate(samples.rows)}
    assert [again[index] for index in range(7)] == [by_row[int(row)] for row in again.rows]
    other = samples.reordered("shuffled", 1, max_prompts=7)
    assert sorted(other.rows) == sorted(again.rows)
    assert {int(r): other[i]["label"] for i, r in enumerate(other.rows)} != {
        int(r): again[i]["label"] for i, r in enumerate(again.rows)
    }


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
    candidates = make_candidates(data)["validation"]
    samples = EvaluationSamples(data, candidates, encoder, "validation", max_users=0, order="retriever")
    assert samples.ranks_by(samples.scores_PC).tolist() == samples.retriever_ranks.tolist()
    # Where all are equal, in whatever order they were asked, it is the retriever's.
    shuffled = samples.reordered("shuffled")
    assert shuffled.ranks_by(np.zeros(shuffled.scores_PC.shape)).tolist() == samples.retriever_ranks.tolist()
    nothing = np.full(shuffled.scores_PC.shape, np.nan)
    assert set(shuffled.ranks_by(nothing).tolist()) == {0}


def test_the_part_of_the_users_is_fixed(data: PreparedData, encoder: PromptEncoder) -> None:
    candidates = make_candidates(data)["test"]
    parts = [EvaluationSamples(data, candidates, encoder, "test", max_users=12).user_ids.tolist() for _ in range(2)]
    assert parts[0] == parts[1]
    assert len(parts[0]) == 12


def test_a_label_beyond_the_letters_is_not_covered(data: PreparedData, tokenizer: Any) -> None:
    from llamarec.ranker.prompts.template import PromptTemplate

    few = PromptEncoder(tokenizer, data.titles, PromptTemplate(), num_candidates=5)
    candidates = make_candidates(data)["test"]
    samples = EvaluationSamples(data, candidates, few, "test", max_users=0)
    assert len(samples) == int(((candidates.label_ranks > 0) & (candidates.label_ranks <= 5)).sum())
