"""How often one item follows another within a user's sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from scipy.sparse import csr_array, diags_array

from llamarec.experts.known import Known

_MOST_PARTNERS: Final = 500
"""Partners of an item that are kept, those with the highest values: a popular one would have the whole catalogue."""


def pair_counts(known: Known, reach: int, weight: Callable[[int], float], *, by_length: bool = False) -> csr_array:
    """Weighted number of times that item j stands after item i: [items + 1, items + 1] sparse.

    Args:
        known: Interactions that may be counted.
        reach: Largest distance between the two.
        weight: Weight of a pair at a distance, 1 = the next item.
        by_length: A pair counts 1 / log2(2 + length of its user's sequence): who takes much says less by each item.
    """
    size = known.num_items + 1
    of_user = np.ones(len(known.users), dtype=np.float32)
    if by_length:
        of_user = (1 / np.log2(2 + np.bincount(known.users)[known.users])).astype(np.float32)

    total = csr_array((size, size), dtype=np.float32)
    for distance in range(1, reach + 1):
        is_pair = known.users[distance:] == known.users[:-distance]
        if not is_pair.any():
            break
        firsts, seconds = known.items[:-distance][is_pair], known.items[distance:][is_pair]
        values = np.float32(weight(distance)) * of_user[distance:][is_pair]
        total = total + csr_array((values, (firsts, seconds)), shape=(size, size))
    return total


def normalised(counts: csr_array, known: Known, *, smoothing: float) -> csr_array:
    """Counts divided by the square roots of both items' numbers of interactions, each plus a constant."""
    scale = diags_array((1 / np.sqrt(known.counts() + smoothing)).astype(np.float32))
    return most_in_each_row((scale @ counts @ scale).tocsr(), _MOST_PARTNERS)


def most_in_each_row(matrix: csr_array, most: int) -> csr_array:
    """The largest values of each row, at most so many; among equal ones the lower column's."""
    matrix.sort_indices()
    kept = np.ones(matrix.nnz, dtype=bool)
    for row in np.flatnonzero(np.diff(matrix.indptr) > most):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        kept[part][np.argsort(-matrix.data[part], kind="stable")[most:]] = False
    if kept.all():
        return matrix

    starts = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return csr_array((matrix.data[kept], matrix.indices[kept], starts), shape=matrix.shape)
