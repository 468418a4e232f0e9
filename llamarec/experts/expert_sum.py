"""The weighted sum of experts: what the first stage says of every item.

Q queries, N items + 1, K items of a list
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from llamarec.errors import ArtifactError
from llamarec.experts.queries import Expert, Queries, blocks_of
from llamarec.vocabulary import PADDING_ITEM


class ExpertSum:
    """Orders the whole catalogue by the weighted sum of experts.

    Args:
        experts: Those that count.
        weights: By name, above 0.
        num_items: Items of the catalogue.
        excludes_history: Whether items of the history are never proposed.

    Raises:
        ArtifactError: there is a weight for an expert that is not among them.
    """

    def __init__(
        self, experts: Sequence[Expert], weights: Mapping[str, float], num_items: int, *, excludes_history: bool
    ) -> None:
        self.experts = [expert for expert in experts if weights.get(expert.name)]
        if unknown := sorted({name for name in weights if weights[name]} - {expert.name for expert in experts}):
            raise ArtifactError(
                f"weights for experts that are not there: {', '.join(unknown)}",
                expected=", ".join(expert.name for expert in experts),
                hint="install the version of llamarec that fitted the weights, or train again",
            )
        self.weights = {expert.name: weights[expert.name] for expert in self.experts}
        self.excludes_history = excludes_history
        self._num_items = num_items

    def totals(self, queries: Queries, given: Mapping[str, NDArray[np.float32]] | None = None) -> NDArray[np.float32]:
        """[Q, N] weighted sums, minus infinity for padding; nothing of the histories is excluded.

        Args:
            queries: A block of them.
            given: Scores [Q, N] by name of an expert, which is then not asked.
        """
        totals_QN = np.zeros((len(queries.histories), self._num_items + 1), dtype=np.float32)
        for expert in self.experts:
            scores_QN = given[expert.name] if given and expert.name in given else expert.scores(queries)
            weight = np.float32(self.weights[expert.name])
            totals_QN += scores_QN if weight == 1 else weight * scores_QN
        totals_QN[:, PADDING_ITEM] = -np.inf
        return totals_QN

    def scores(self, queries: Queries, given: Mapping[str, NDArray[np.float32]] | None = None) -> NDArray[np.float32]:
        """[Q, N] weighted sums, minus infinity for padding and what is excluded. Arguments: see `totals`."""
        scores_QN = self.totals(queries, given)
        exclude(scores_QN, queries.histories if self.excludes_history else None)
        return scores_QN

    def propose(self, queries: Queries, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k best items for each query.

        Returns:
            item_ids [Q, k] best first, 0 where no item is left; scores [Q, k], minus infinity there.
        """
        items_QK = np.zeros((len(queries.histories), k), dtype=np.int32)
        scores_QK = np.full((len(queries.histories), k), -np.inf, dtype=np.float32)

        for block in blocks_of(len(queries.histories), self._num_items):
            items_BK, scores_BK = best_of(self.scores(queries.part(block.start, block.stop)), k)
            items_QK[block, : items_BK.shape[1]] = items_BK
            scores_QK[block, : items_BK.shape[1]] = scores_BK
        return items_QK, scores_QK


def best_of(scores_QN: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best items by their scores, or all N.

    Returns:
        item_ids [Q, k or N] best first, 0 where no item is left; scores, minus infinity there.
    """
    best = torch.from_numpy(scores_QN).topk(min(k, scores_QN.shape[1]), dim=1)
    items_QK: NDArray[np.int64] = torch.where(torch.isinf(best.values), PADDING_ITEM, best.indices).numpy()
    return items_QK, best.values.numpy()


def exclude(scores_QN: NDArray[np.float32], histories: Sequence[NDArray[np.int32]] | None) -> None:
    """Sets the scores of padding, and of items of the histories, to minus infinity."""
    scores_QN[:, PADDING_ITEM] = -np.inf
    if histories:
        rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        scores_QN[rows, np.concatenate(histories)] = -np.inf
