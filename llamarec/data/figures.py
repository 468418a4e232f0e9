"""Figures of a prepared set by which a person sees whether the raw files were understood."""

from __future__ import annotations

from typing import Final, TypedDict

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.vocabulary import ITEM_IDS, TITLE, TRAIN_END, VALIDATION_END

TIED: Final = "tied"
"""Column of lists: which of a user's interactions have the time of another one."""


class Ties(TypedDict):
    """Interactions of a user at equal times, which keep the order of the file.

    users: how many have such. labels: of how many the validation or test item was decided by the file's order.
    """

    users: int
    labels: int


class SharedTitles(TypedDict):
    """Items that share their title with another one; most_shared: the title of most items, "" where none is shared."""

    items: int
    most_shared: str


class UnseenTestItems(TypedDict):
    """Users who have a test item, and of how many it is in nobody's training part."""

    users: int
    unseen: int


def count_ties(histories: pl.DataFrame) -> Ties:
    """Ties among the interactions of a prepared set, of which TIED says where they are."""
    tied = histories[TIED].explode().to_numpy()
    starts, ends = _bounds(histories)
    decided = np.zeros(len(starts), np.bool_)
    for name in (TRAIN_END, VALIDATION_END):
        label = starts + histories[name].to_numpy()
        has_label = (label > starts) & (label < ends)
        decided[has_label] |= tied[label[has_label]]

    return {"users": int(histories[TIED].list.any().sum()), "labels": int(decided.sum())}


def count_shared_titles(items: pl.DataFrame) -> SharedTitles:
    """How many items have a title that another item has, too."""
    shared = items[TITLE].value_counts().filter(pl.col("count") > 1).sort("count", TITLE, descending=[True, False])
    return {"items": int(shared["count"].sum()), "most_shared": "" if shared.is_empty() else str(shared[TITLE][0])}


def count_unseen_test_items(histories: pl.DataFrame) -> UnseenTestItems:
    """How many users have a test item, and how many of these items nobody has in the training part."""
    item_ids = histories[ITEM_IDS].explode().to_numpy()
    starts, ends = _bounds(histories)
    is_seen = np.zeros(int(item_ids.max(initial=0)) + 1, np.bool_)

    # 1 where a training part begins, -1 where it ends: their sum is 1 within it.
    steps = np.zeros(len(item_ids) + 1, np.int8)
    train_ends = histories[TRAIN_END].to_numpy()
    steps[starts[train_ends > 0]] += 1
    steps[(starts + train_ends)[train_ends > 0]] -= 1
    is_seen[item_ids[np.cumsum(steps[:-1], dtype=np.int8).astype(np.bool_)]] = True

    first_of_test = histories[VALIDATION_END].to_numpy()
    has_label = (first_of_test > 0) & (starts + first_of_test < ends)
    labels = item_ids[(starts + first_of_test)[has_label]]
    return {"users": len(labels), "unseen": int((~is_seen[labels]).sum())}


def share_taken_before(histories: pl.DataFrame) -> float:
    """Share of the validation labels that are in their user's history; 0 without labels."""
    has_label = (pl.col(TRAIN_END) > 0) & (pl.col(TRAIN_END) < pl.col(VALIDATION_END))
    labelled = histories.filter(has_label)
    if labelled.is_empty():
        # Some versions of polars take no label from no list.
        return 0.0

    label = pl.col(ITEM_IDS).list.get(pl.col(TRAIN_END))
    taken = labelled.select(pl.col(ITEM_IDS).list.head(pl.col(TRAIN_END)).list.contains(label))
    return float(taken.to_series().mean() or 0)  # type: ignore[arg-type]  # of booleans


def _bounds(histories: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each user's sequence starts and ends among all interactions."""
    lengths = histories[ITEM_IDS].list.len().to_numpy().astype(np.int64)
    ends = np.cumsum(lengths)
    return ends - lengths, ends
