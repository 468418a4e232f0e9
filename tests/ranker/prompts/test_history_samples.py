"""Histories as one text, and windows of them: each training position is asked about once in an epoch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError
from llamarec.ranker.prompts.history_samples import HistorySamples, NextItemSamples
from llamarec.ranker.prompts.history_text import HistoryEncoder


def encoder_of(tokenizer: Any, data: PreparedData, **options: int) -> HistoryEncoder:
    sizes = {"max_history": 4, "max_title_tokens": 8, "max_tokens": 200, **options}
    return HistoryEncoder(tokenizer, data.titles, cache_folder=None, **sizes)


def test_a_history_is_its_titles_line_by_line(tokenizer: Any, data: PreparedData) -> None:
    encoder = encoder_of(tokenizer, data)
    shown = encoder.encode([1, 2, 3])
    text = tokenizer.decode(shown.input_ids[len(encoder.prefix) :])
    assert text == "".join(f" {encoder.cut_titles[item]}\n" for item in (1, 2, 3))
    assert [shown.input_ids[end] for end in shown.ends] == 3 * encoder.separator
    assert shown.first == 0
    assert encoder.encode(np.array([9, 8, 1, 2, 3, 4], dtype=np.int32)) == (*encoder.encode([1, 2, 3, 4])[:2], 2)


def test_the_oldest_items_go_where_tokens_run_short(tokenizer: Any, data: PreparedData) -> None:
    all_of_them = encoder_of(tokenizer, data).encode([1, 2, 3, 4])
    fewer = encoder_of(tokenizer, data, max_tokens=len(all_of_them.input_ids) - 1).encode([1, 2, 3, 4])
    assert fewer.first == 1
    assert len(fewer.ends) == 3
    with pytest.raises(ConfigError, match=r"--max_prompt_tokens 3 cannot hold the longest title"):
        encoder_of(tokenizer, data, max_tokens=3)


@pytest.mark.parametrize("max_history", [1, 2, 3, 5, 50])
def test_every_training_position_is_a_label_once_in_an_epoch(
    tokenizer: Any, data: PreparedData, max_history: int
) -> None:
    samples = HistorySamples(data, encoder_of(tokenizer, data, max_history=max_history, max_tokens=2000), seed=7)
    for epoch in range(3):
        positions: Counter[tuple[int, int]] = Counter()
        for index in range(len(samples)):
            user, start, end = samples.window(epoch, index)
            assert 0 <= start < end
            assert end - start <= max_history
            positions.update((user, position) for position in range(start + 1, end + 1))
            sample = samples[epoch, index]
            assert sample["labels"] == data.sequences.train(user)[start + 1 : end + 1].tolist()
            assert len(sample["answer_positions"]) == len(sample["labels"])
        counts = data.sequences.num_training_positions()
        assert positions == Counter({(user, at): 1 for user, count in enumerate(counts) for at in range(1, count + 1)})
        assert samples.num_positions == positions.total()


def test_windows_are_a_pure_function_of_seed_epoch_and_index(tokenizer: Any, data: PreparedData) -> None:
    encoder = encoder_of(tokenizer, data, max_history=3)
    first, again, other = (HistorySamples(data, encoder, seed) for seed in (7, 7, 8))
    indices = list(range(len(first)))
    shuffled = np.random.default_rng(0).permutation(len(first)).tolist()
    once = {index: first.window(2, index) for index in indices}
    assert once == {index: again.window(2, index) for index in shuffled}
    assert once != {index: other.window(2, index) for index in indices}
    assert once != {index: first.window(3, index) for index in indices}


def test_evaluation_asks_for_the_label_after_the_whole_history(tokenizer: Any, data: PreparedData) -> None:
    samples = NextItemSamples(data, encoder_of(tokenizer, data), "test", max_users=0)
    assert sorted(samples.user_ids.tolist()) == data.sequences.users_with_label("test").tolist()
    lengths = [len(samples[index]["input_ids"]) for index in range(len(samples))]
    assert lengths == sorted(lengths)
    for index, user in enumerate(samples.user_ids.tolist()):
        sample = samples[index]
        assert sample["labels"] == [data.sequences.label(user, "test")]
        assert sample["answer_positions"] == [len(sample["input_ids"]) - 1]


def test_fewer_users_are_a_fixed_sample(tokenizer: Any, data: PreparedData, tmp_path: Path) -> None:
    few = NextItemSamples(data, encoder_of(tokenizer, data), "validation", max_users=5)
    assert len(few) == 5
    assert few.widened(3) is few
    more = few.widened(0)
    assert set(few.user_ids.tolist()) < set(more.user_ids.tolist())
