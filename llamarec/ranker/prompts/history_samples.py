"""Samples of `--readout items`: histories, and the item that follows each of their items.

A training sample is a window of a user's sequence. Every training position is the label of exactly one window in an
epoch. The borders of the windows are drawn from (seed, epoch, user), so a sample is a pure function of (seed, epoch,
index), and another epoch shows long histories from other items on.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.ranker.prompts.evaluation_samples import fixed_sample
from llamarec.ranker.prompts.history_text import HistoryEncoder
from llamarec.vocabulary import Split

# The purpose of a random draw is part of its key (see training_samples).
_WINDOWS_STREAM = 6


class HistorySample(TypedDict):
    """One history: token ids, the position at which each item ends, and the item id that follows it."""

    input_ids: list[int]
    answer_positions: list[int]
    labels: list[int]


class HistorySamples(Dataset[HistorySample]):
    """All training positions from the second item on, in windows, indexed by `(epoch, index)`.

    Attributes:
        num_positions: Labels of an epoch.

    Args:
        data: Prepared data.
        encoder: Encoder of histories.
        seed: Seed of the windows' borders.

    Raises:
        ArtifactError: there is no training position.
    """

    def __init__(self, data: PreparedData, encoder: HistoryEncoder, seed: int) -> None:
        self._data, self._encoder, self._seed = data, encoder, seed
        self._counts = data.sequences.num_training_positions()
        self._ends = np.cumsum(-(-self._counts // encoder.max_history))
        self.num_positions = int(self._counts.sum())

        if not self.num_positions:
            raise ArtifactError(
                f"{data.folder} has no training sample for the ranker",
                expected="at least one user with two training items",
                found=f"{data.num_users} users, {data.num_interactions} interactions",
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: tuple[int, int]) -> HistorySample:
        user, start, end = self.window(*key)
        items = self._data.sequences.train(user)
        shown = self._encoder.encode(items[start:end])
        return {
            "input_ids": shown.input_ids,
            "answer_positions": shown.ends,
            "labels": items[start + 1 + shown.first : end + 1].tolist(),
        }

    def window(self, epoch: int, index: int) -> tuple[int, int, int]:
        """User of a sample, and the part of the sequence that it shows: [start, end)."""
        user = int(np.searchsorted(self._ends, index, side="right"))
        number = index - (int(self._ends[user - 1]) if user else 0)
        count, size = int(self._counts[user]), self._encoder.max_history

        # All windows are full but the first and the last, which share what the others leave.
        slack = -count % size
        shift = int(np.random.default_rng([self._seed, _WINDOWS_STREAM, epoch, user]).integers(slack + 1))
        return user, max(number * size - shift, 0), min((number + 1) * size - shift, count)


class NextItemSamples(Dataset[HistorySample]):
    """The history of each user of a split, and the item that follows it; shortest history first.

    Attributes:
        split: Split whose labels are evaluated.
        user_ids: [num_users] in the order of the samples.
        labels: [num_users] item ids.

    Args:
        data: Prepared data.
        encoder: Encoder of histories.
        split: See above.
        max_users: Size of a fixed random sample of users; 0 means all.
    """

    def __init__(self, data: PreparedData, encoder: HistoryEncoder, split: Split, *, max_users: int) -> None:
        self._data, self._encoder, self.split, self._max_users = data, encoder, split, max_users
        users = data.sequences.users_with_label(split)
        users = users[fixed_sample(len(users), max_users, split)]
        lengths = [len(encoder.encode(data.sequences.history(int(user), split)).input_ids) for user in users]

        # Histories of equal length need no padding, and the order of evaluation changes no metric.
        self.user_ids: NDArray[np.int32] = users[np.argsort(lengths, kind="stable")]
        self.labels = np.array([data.sequences.label(int(user), split) for user in self.user_ids], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.user_ids)

    def __getitem__(self, index: int) -> HistorySample:
        shown = self._encoder.encode(self.history(index))
        return {
            "input_ids": shown.input_ids,
            "answer_positions": shown.ends[-1:],
            "labels": [int(self.labels[index])],
        }

    @property
    def histories(self) -> list[NDArray[np.int32]]:
        """[num_users] item ids before each label, oldest first."""
        return [self.history(index) for index in range(len(self))]

    def history(self, index: int) -> NDArray[np.int32]:
        """Item ids before the label, oldest first."""
        return self._data.sequences.history(int(self.user_ids[index]), self.split)

    def widened(self, max_users: int) -> NextItemSamples:
        """A fixed random sample of `max_users` users of the split (0 = all); `self` if that is no more than now."""
        available = len(self._data.sequences.users_with_label(self.split))
        if min(max_users or available, available) <= len(self):
            return self
        return NextItemSamples(self._data, self._encoder, self.split, max_users=max_users)
