"""Item-kNN: the cosine of two items over the users who took both, shrunk, of each item's nearest only.

Sarwar et al. 2001, "Item-based collaborative filtering recommendation algorithms"; the shrinkage and the choice of the
neighbourhood on validation as in Ferrari Dacrema et al. 2019 (arXiv 1907.06902). The order of a history does not count.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.standard.protocol import Fit, Fitted, System, known_sequences, label_ranks
from benchmarks.standard.sparse_rows import SparseRows
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.metrics import ndcg_at
from llamarec.vocabulary import Split

NEIGHBOURS: Final = (20, 100, 500)
SHRINKAGES: Final = (0.0, 10.0, 100.0)


class ItemKnn:
    """Sums over a history of the likeness of each item to it.

    Args:
        similarities: Row i: the nearest items of item i.
    """

    def __init__(self, similarities: SparseRows) -> None:
        self._similarities = similarities

    def scores(self, histories: Sequence[NDArray[np.int32]], times: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Scorer`."""
        return self._similarities.sums([np.unique(history) for history in histories])


def fit(data: PreparedData, how: Fit) -> Fitted:
    """Tries every neighbourhood and shrinkage, and keeps the best NDCG@10 on validation."""
    shared = SharedUsers(data, "validation")
    values = {
        choice: ndcg_at(label_ranks(shared.nearest(*choice), data, "validation"), 10)
        for choice in itertools.product(NEIGHBOURS, SHRINKAGES)
    }
    chosen = max(values, key=lambda choice: values[choice])

    notes = {"neighbours": chosen[0], "shrinkage": chosen[1], "validation": values[chosen]}
    return Fitted({"item-knn": SharedUsers(data, "test").nearest(*chosen)}, notes)


class SharedUsers:
    """Which items were taken by the same users.

    Attributes:
        together: Number of users who took both of two different items.
        counts: [items + 1] who took each.
    """

    def __init__(self, data: PreparedData, split: Split) -> None:
        baskets = [np.unique(sequence) for sequence in known_sequences(data, split)]
        pairs = [np.stack(np.meshgrid(basket, basket)).reshape(2, -1) for basket in baskets]
        left, right = np.concatenate(pairs, axis=1)

        different = left != right
        size = data.num_items + 1
        self.together = SparseRows(left[different], right[different], np.ones(int(different.sum())), (size, size))
        self.counts = np.bincount(np.concatenate(baskets), minlength=size).astype(np.float64)

    def nearest(self, neighbours: int, shrinkage: float) -> ItemKnn:
        """The scorer with so many neighbours of each item."""
        lengths = np.sqrt(self.counts[self.together.rows] * self.counts[self.together.columns])
        return ItemKnn(self.together.with_values(self.together.values / (lengths + shrinkage)).largest(neighbours))


SYSTEMS: Final = (System(name="item-knn", titles={"item-knn": "item-kNN"}, fit=fit, packages=("numpy",)),)
