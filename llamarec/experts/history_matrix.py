"""Histories as sparse rows, in which older items have less weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llamarec.vocabulary import PADDING_ITEM

REMEMBERED: Final = 20  # items; with a decay of 0.8 the next one would count 1%


def sums_of_rows(histories: csr_array, table: csr_array) -> NDArray[np.float32]:
    """[Q, columns] weighted sum of the rows of a table, over the items of each history."""
    sums: NDArray[np.float32] = (histories @ table).toarray()
    return sums


def strongest(history: NDArray[np.int32], table: csr_array, item: int, *, decay: float) -> int:
    """The item of a history that says most for another one; 0 where none does.

    Args:
        history: Item ids, oldest first.
        table: [items + 1, items + 1] what one item says for another.
        item: The other item.
        decay: See `history_matrix`.
    """
    lasts = history[: -REMEMBERED - 1 : -1]
    parts = [decay**age * float(table[int(one), item]) for age, one in enumerate(lasts)]
    return int(lasts[int(np.argmax(parts))]) if parts and max(parts) > 0 else PADDING_ITEM


def bent(values: NDArray[np.float32], bend: float) -> NDArray[np.float32]:
    """log(1 + bend x): a second reason for an item counts less than the first one."""
    result: NDArray[np.float32] = np.log1p(np.float32(bend) * values)
    return result


def history_matrix(
    histories: Sequence[NDArray[np.int32]], num_items: int, *, decay: float, remembered: int = REMEMBERED
) -> csr_array:
    """Weights of the items of each history: [Q, items + 1] sparse.

    Args:
        histories: Item ids, oldest first.
        num_items: Items of the catalogue.
        decay: An item that is a positions older than the last one has the weight decay^a; repetitions are added.
        remembered: Only so many last items count.
    """
    lasts = [history[: -remembered - 1 : -1] for history in histories]
    ages = [np.arange(len(last)) for last in lasts]
    starts = np.cumsum([0, *(len(last) for last in lasts)])
    weights = (decay ** np.concatenate(ages)).astype(np.float32) if lasts else np.zeros(0, np.float32)
    items = np.concatenate(lasts) if lasts else np.zeros(0, np.int32)

    matrix = csr_array((weights, items, starts), shape=(len(histories), num_items + 1))
    matrix.sum_duplicates()
    return matrix
