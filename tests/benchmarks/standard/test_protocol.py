"""Everything is ranked alike: ties count against, the history is left out, the validation item belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.standard import systems
from benchmarks.standard.protocol import known_sequences, label_ranks, moments
from benchmarks.standard.sets import SETS, prepared_set
from llamarec.data.prepared import PreparedData
from llamarec.vocabulary import SPLITS


class Recorder:
    """Scores everything alike and keeps what it was asked."""

    def __init__(self, num_items: int, value: float = 1.0) -> None:
        self.shape, self.value = num_items + 1, value
        self.histories: list[NDArray[np.int32]] = []
        self.times: list[int] = []

    def scores(self, histories: Sequence[NDArray[np.int32]], times: NDArray[np.int64]) -> NDArray[np.float32]:
        self.histories += histories
        self.times += times.tolist()
        return np.full((len(histories), self.shape), self.value, dtype=np.float32)


class Oracle(Recorder):
    """Knows every label."""

    def __init__(self, data: PreparedData) -> None:
        super().__init__(data.num_items, 0.0)
        self._labels = iter([data.sequences.label(int(u), "test") for u in data.sequences.users_with_label("test")])

    def scores(self, histories: Sequence[NDArray[np.int32]], times: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = super().scores(histories, times)
        for row in scores:
            row[next(self._labels)] = 1.0
        return scores


def test_a_tie_counts_against_the_system_and_the_history_is_left_out(data: PreparedData) -> None:
    recorder = Recorder(data.num_items)
    ranks = label_ranks(recorder, data, "test")

    left = [data.num_items - len(np.unique(history)) for history in recorder.histories]
    is_old = np.array(
        [
            data.sequences.label(int(user), "test") in data.sequences.history(int(user), "test")
            for user in data.sequences.users_with_label("test")
        ]
    )
    assert ranks[~is_old].tolist() == np.array(left)[~is_old].tolist()
    assert (ranks[is_old] == 0).all()


def test_the_validation_item_belongs_to_the_history_at_the_test(data: PreparedData) -> None:
    sequences = data.sequences
    recorder = Recorder(data.num_items)
    label_ranks(recorder, data, "test")

    for user, history, time in zip(
        sequences.users_with_label("test").tolist(), recorder.histories, recorder.times, strict=True
    ):
        whole = sequences.whole(user)
        assert history.tolist() == whole[:-1].tolist()
        assert time == sequences.timestamps[sequences.offsets[user + 1] - 2]


def test_after_a_cut_in_time_everything_before_it_is_known_and_nothing_behind(folder: Path) -> None:
    data = prepared_set("quick", "temporal", folder, "none")
    sequences = data.sequences

    for split in SPLITS:
        ends = sequences.train_ends if split == "validation" else sequences.validation_ends
        known = known_sequences(data, split)
        assert [len(one) for one in known] == ends.tolist()
        (moment,) = set(moments(data, split).tolist())
        for user in range(data.num_users):
            times = sequences.timestamps[sequences.offsets[user] : sequences.offsets[user + 1]]
            assert (times[: ends[user]] <= moment).all()
            assert (times[ends[user] :] > moment).all()


def test_with_the_last_item_left_out_only_the_training_part_is_known(data: PreparedData) -> None:
    for split in SPLITS:
        known = known_sequences(data, split)
        assert [one.tolist() for one in known] == [data.sequences.train(u).tolist() for u in range(data.num_users)]


def test_who_knows_the_label_ranks_it_first(data: PreparedData) -> None:
    ranks = label_ranks(Oracle(data), data, "test")
    assert set(ranks.tolist()) <= {0, 1}
    assert (ranks == 1).mean() > 0.9


def test_a_label_without_a_score_is_a_miss(data: PreparedData) -> None:
    assert not label_ranks(Recorder(data.num_items, -np.inf), data, "test").any()
    assert not label_ranks(Recorder(data.num_items, np.nan), data, "test").any()


def test_every_name_of_the_list_is_that_of_a_system() -> None:
    found = {name: systems.system_of(name) for name in systems.MODULES}
    assert {name: system.name for name, system in found.items()} == {name: name for name in found}

    rows = [row for system in found.values() for row in system.titles]
    assert len(rows) == len(set(rows)), "a row stands for one thing"
    assert set(SETS) == {"beauty", "toys", "sports", "games", "quick"}
