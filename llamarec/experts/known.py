"""The interactions that may be counted when a question is asked, and when that is.

Leave-one-out has no common moment: the label of one user is earlier than the training items of another. As everywhere
in the field, training items are counted, whenever they were, and a question is asked at the time of the history's last
item. A cut in time has one: everything before the cut is known, and the question is asked there. A trained retriever
that is asked today knows the whole data set, and today is the time of its last interaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.experts.queries import Queries
from llamarec.vocabulary import Asked, Split


@dataclass(frozen=True)
class Known:
    """Interactions that may be counted, user after user, each user's by time.

    Attributes:
        items: [E] item ids.
        times: [E] seconds since 1970.
        users: [E] whose they are, ascending.
        num_items: Items of the catalogue.
        asked: When the questions are asked; those of training prompts, as those of validation.
    """

    items: NDArray[np.int32]
    times: NDArray[np.int64]
    users: NDArray[np.int64]
    num_items: int
    asked: Asked

    def counts(self) -> NDArray[np.int64]:
        """[items + 1] interactions of each item."""
        return np.bincount(self.items, minlength=self.num_items + 1)


def known_at(data: PreparedData, split: Split) -> Known:
    """What may be counted for the questions of a split."""
    sequences = data.sequences
    ends = sequences.validation_ends if split == "test" and data.has_cut else sequences.train_ends
    return _up_to(data, ends, split)


def known_before_test(data: PreparedData) -> Known:
    """Training and validation part, which a model may have been trained on that answers the test's questions."""
    return _up_to(data, data.sequences.validation_ends, "test")


def known_of_users(data: PreparedData, users: NDArray[np.bool_]) -> Known:
    """Training items of some users, for the training prompts of all others.

    Args:
        data: Prepared data.
        users: [num_users] whose items count.
    """
    return _up_to(data, np.where(users, data.sequences.train_ends, 0), "validation")


def known_now(data: PreparedData) -> Known:
    """The whole data set."""
    return _up_to(data, np.diff(data.sequences.offsets), "now")


def now(data: PreparedData) -> int:
    """Time of the last interaction, in seconds since 1970."""
    return int(data.sequences.timestamps.max(initial=0))


def queries_of(data: PreparedData, split: Split, users: Sequence[int] | NDArray[np.integer]) -> Queries:
    """The questions of a split, for users with a label."""
    sequences = data.sequences
    histories = [sequences.history(int(user), split) for user in users]
    ends = sequences.train_ends if split == "validation" else sequences.validation_ends
    lasts = sequences.timestamps[sequences.offsets[:-1] + np.maximum(ends, 1) - 1]

    if data.has_cut:
        cut = int(lasts[ends > 0].max(initial=0))
        return Queries(histories, np.full(len(histories), cut, dtype=np.int64))
    return Queries(histories, lasts[np.asarray(users, dtype=np.int64)])


def _up_to(data: PreparedData, ends: NDArray[np.integer], asked: Asked) -> Known:
    sequences = data.sequences
    lengths = np.diff(sequences.offsets)
    users = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.arange(len(users)) - sequences.offsets[users]
    is_known = positions < ends[users]
    return Known(
        sequences.item_ids[is_known],
        sequences.timestamps[is_known],
        users[is_known],
        num_items=data.num_items,
        asked=asked,
    )
