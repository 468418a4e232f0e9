"""The rule without training of arXiv 2605.07125 ("TGH"), from its description and what its code does.

An item's successors in the known sequences are its first ring; their successors that are in no earlier ring the
second; and so on. A ring is ordered by the cosine of its items' texts to the item at its centre, in the first ring plus
half of log(1 + count of the transition) over the largest of that item. Of each ring a fixed number enters the list:

- one centre (the last item): 7, 2 and 1 of rings one, two and three;
- two centres: 5 and 1 around the last item, then 3 and 1 around the one before it, without those that are listed.

Where a ring has too few, the best of the earlier rings that are left take their place. Which of the two is used is
chosen on validation. Differences to the published rule: texts are titles as TF-IDF vectors instead of descriptions in
the vectors of a language model of 3 billion weights (where a set has no titles, its texts say nothing); items of the
history are left out before the rings are cut, as our ranks leave them out; equal items of a ring are ordered by chance
with a fixed seed; the ranks 11 to 20, which the paper does not have, are a second helping of the same numbers from what
is left; the list is not filled up at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.standard.protocol import Fit, Fitted, System, known_sequences, label_ranks
from benchmarks.standard.sparse_rows import SparseRows, transitions
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.metrics import ndcg_at
from llamarec.experts.title_words import tf_idf
from llamarec.vocabulary import Split

Helpings = tuple[int, ...]
"""How many items of each ring, from the first."""

RULES: Final[dict[str, tuple[Helpings, ...]]] = {"one centre": ((7, 2, 1),), "two centres": ((5, 1), (3, 1))}
_EDGE_WEIGHT: Final = 0.5
_LISTED: Final = 20
_TIE: Final = 1e-6


class TransitionRule:
    """The rule.

    Args:
        data: What is known of it is the graph.
        split: When.
        helpings: For each centre, from the last item: how many items of each ring.
    """

    def __init__(self, data: PreparedData, split: Split, helpings: tuple[Helpings, ...]) -> None:
        self._helpings = helpings
        self._takes_seen = data.has_repeats
        self._successors = transitions(known_sequences(data, split), data.num_items)
        self._edges = _edge_weights(self._successors)
        self._words, self._items = _texts(data)
        self._ties = np.random.default_rng(0).random(data.num_items + 1) * _TIE

    def scores(self, histories: Sequence[NDArray[np.int32]], times: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Scorer`: 20 items have a score, minus their rank."""
        by_centre = [self._rings(histories, centre) for centre in range(len(self._helpings))]

        result = np.full((len(histories), self._successors.shape[1]), -np.inf, dtype=np.float32)
        for row in range(len(histories)):
            listed = self._list([rings[row] for rings in by_centre])
            result[row, listed] = -np.arange(len(listed), dtype=np.float32)
        return result

    def _rings(self, histories: Sequence[NDArray[np.int32]], centre: int) -> list[list[list[int]]]:
        """[histories][rings] the items of each ring around the item that is `centre` before the last, best first."""
        centres = [history[-1 - centre : len(history) - centre] for history in histories]
        closed_BN = np.zeros((len(histories), self._successors.shape[1]), dtype=np.bool_)
        for row, (history, item) in enumerate(zip(histories, centres, strict=True)):
            closed_BN[row, item] = True
            if not self._takes_seen:
                closed_BN[row, history] = True

        alike_BN = self._alike(centres) + self._ties
        reached_BN = np.zeros_like(closed_BN)
        rings: list[list[list[int]]] = [[] for _ in histories]
        ring = [item.astype(np.int64) for item in centres]
        for depth in range(len(self._helpings[centre])):
            next_BN = (self._successors.sums(ring) > 0) & ~reached_BN
            if depth:
                for row, item in enumerate(centres):
                    next_BN[row, item] = False
            reached_BN |= next_BN
            ring = [np.flatnonzero(row) for row in next_BN]

            scores_BN = alike_BN + _EDGE_WEIGHT * self._edges.sums(centres) if depth == 0 else alike_BN
            for row, items in enumerate(ring):
                open_items = items[~closed_BN[row, items]] if not self._takes_seen else items
                best = np.argsort(-scores_BN[row, open_items], kind="stable")[:_LISTED]
                rings[row].append(open_items[best].tolist())
        return rings

    def _alike(self, centres: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """[centres, items + 1] cosine of the texts."""
        words = self._words.sums(centres)
        parts = [np.flatnonzero(row) for row in words]
        return self._items.sums(parts, [row[part] for row, part in zip(words, parts, strict=True)])

    def _list(self, by_centre: list[list[list[int]]]) -> list[int]:
        """The list of one history, from the rings of each centre."""
        listed: list[int] = []
        while len(listed) < _LISTED:
            before = len(listed)
            for rings, helping in zip(by_centre, self._helpings, strict=True):
                left = [[item for item in ring if item not in listed] for ring in rings]
                listed += served(left, helping)
            if len(listed) == before:
                break
        return listed[:_LISTED]


def served(rings: Sequence[Sequence[int]], helping: Helpings) -> list[int]:
    """A number of items from each ring; what a ring lacks comes from what earlier rings have left.

    >>> served([[1, 2, 3], [4], [5, 6]], (2, 2, 1))
    [1, 2, 3, 4, 5]
    >>> served([[1], [2]], (7, 2, 1))
    [1, 2]
    """
    listed: list[int] = []
    left: list[int] = []

    for ring, wanted in zip(rings, helping, strict=False):
        lent = left[: max(0, wanted - len(ring))]
        left = left[len(lent) :]
        own = list(ring[: wanted - len(lent)])
        listed += [*lent, *own]
        left += ring[len(own) :]

    return [*listed, *left][: sum(helping)]


def _edge_weights(successors: SparseRows) -> SparseRows:
    weights = np.log1p(successors.values)
    largest = np.zeros(successors.shape[0], dtype=np.float32)
    np.maximum.at(largest, successors.rows, weights)
    return successors.with_values(weights / largest[successors.rows])


def _texts(data: PreparedData) -> tuple[SparseRows, SparseRows]:
    """Words of each item, and items of each word."""
    weights_IW = tf_idf(data.titles)
    items, words = weights_IW.indices().numpy()
    rows = SparseRows(items, words, weights_IW.values().numpy(), (weights_IW.shape[0], weights_IW.shape[1]))
    return rows, rows.transposed()


def fit(data: PreparedData, how: Fit) -> Fitted:
    """Builds the graph; one or two centres, by NDCG@10 on validation."""
    values = {
        name: ndcg_at(label_ranks(TransitionRule(data, "validation", helpings), data, "validation"), 10)
        for name, helpings in RULES.items()
    }
    chosen = max(values, key=lambda name: values[name])

    scorer = TransitionRule(data, "test", RULES[chosen])
    return Fitted({"transition-rule": scorer}, {"rule": chosen, "validation": values[chosen]})


SYSTEMS: Final = (
    System(name="transition-rule", titles={"transition-rule": "transition rule, no training (TGH)"}, fit=fit),
)
