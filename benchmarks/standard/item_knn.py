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

from benchmarks.standard.protocol import Fit, Fitted, System, label_ranks
from benchmarks.standard.sparse_rows import SparseRows
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.metrics import ndcg_at

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
    together, counts = shared_users(data)
    lengths = np.sqrt(counts[together.rows] * counts[together.columns])

    best, chosen, best_value = ItemKnn(together), (0, 0.0), -1.0
    for shrinkage, neighbours in itertools.product(SHRINKAGES, NEIGHBOURS):
        cosine = together.with_values(together.values / (lengths + shrinkage))
        scorer = ItemKnn(cosine.largest(neighbours))
        value = ndcg_at(label_ranks(scorer, data, "validation"), 10)
        if value > best_value:
            best, chosen, best_value = scorer, (neighbours, shrinkage), value

    return Fitted({"item-knn": best}, {"neighbours": chosen[0], "shrinkage": chosen[1], "validation": best_value})


def shared_users(data: PreparedData) -> tuple[SparseRows, NDArray[np.float64]]:
    """Number of users who took both of two different items, and who took each: [items + 1]."""
    baskets = [np.unique(data.sequences.train(user)) for user in range(data.num_users)]
    pairs = [np.stack(np.meshgrid(basket, basket)).reshape(2, -1) for basket in baskets]
    left, right = np.concatenate(pairs, axis=1)

    different = left != right
    size = data.num_items + 1
    together = SparseRows(left[different], right[different], np.ones(int(different.sum())), (size, size))
    return together, np.bincount(np.concatenate(baskets), minlength=size).astype(np.float64)


SYSTEMS: Final = (System(name="item-knn", titles={"item-knn": "item-kNN"}, fit=fit, packages=("numpy",)),)
