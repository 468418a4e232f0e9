"""Recall, NDCG and MRR at k from the rank of each user's one relevant item.

A rank is 1 for the first item and 0 for "not in the list". With one relevant item per user the ideal DCG is 1,
so NDCG@k = 1 / log2(rank + 1) (Järvelin and Kekäläinen 2002), MRR@k = 1 / rank and Recall@k = 1 for ranks up to k.
Every metric is a mean over users, never a mean of batch means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.integer]
Values = NDArray[np.float64]
Number = TypeVar("Number", bound=np.generic)

CUTOFFS: Final = (1, 5, 10, 20)


def recall_values(ranks: Ranks, k: int) -> Values:
    """Per user: 1.0 where the rank is within the first k. [num_users] -> [num_users]."""
    return ((ranks >= 1) & (ranks <= k)).astype(np.float64)


def ndcg_values(ranks: Ranks, k: int) -> Values:
    """Per user: 1 / log2(rank + 1) within the first k, else 0. [num_users] -> [num_users]."""
    return recall_values(ranks, k) / np.log2(np.maximum(ranks, 1) + 1.0)


def mrr_values(ranks: Ranks, k: int) -> Values:
    """Per user: 1 / rank within the first k, else 0. [num_users] -> [num_users]."""
    return recall_values(ranks, k) / np.maximum(ranks, 1)


METRICS: Final[dict[str, Callable[[Ranks, int], Values]]] = {
    "recall": recall_values,
    "ndcg": ndcg_values,
    "mrr": mrr_values,
}


def recall_at(ranks: Ranks, k: int) -> float:
    """Share of users with a rank within the first k."""
    return _mean(recall_values(ranks, k))


def ndcg_at(ranks: Ranks, k: int) -> float:
    """Mean over users of 1 / log2(rank + 1) within the first k."""
    return _mean(ndcg_values(ranks, k))


def mrr_at(ranks: Ranks, k: int) -> float:
    """Mean over users of 1 / rank within the first k."""
    return _mean(mrr_values(ranks, k))


def metric_values(name: str, ranks: Ranks) -> Values:
    """Per-user values of the metric with this name, such as `ndcg@10`.

    Raises:
        KeyError: the name is not `recall@k`, `ndcg@k` or `mrr@k`.
    """
    kind, _, cutoff = name.partition("@")
    return METRICS[kind](ranks, int(cutoff))


def all_metrics(ranks: Ranks, cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, float]:
    """`{"recall@1": ..., "ndcg@1": ..., ...}`, each a mean over users (0.0 where there are none)."""
    return {f"{kind}@{k}": _mean(values(ranks, k)) for k in cutoffs for kind, values in METRICS.items()}


def score_ranks(
    scores_PC: NDArray[np.floating], labels_P: NDArray[np.int64], *, listed: bool = True
) -> NDArray[np.int64]:
    """Rank of each label among the candidates ordered by score; the one function of ranks for both stages.

    A tie is never to the label's advantage. In a list that has an order of its own, the earlier candidate is first, as
    it is when the list is served; in a catalogue, every item of the same score is.

    Args:
        scores_PC: [num_prompts, num_candidates]; minus infinity for an excluded candidate.
        labels_P: [num_prompts] index of the label among the candidates.
        listed: Whether the candidates' order counts.

    Returns:
        [num_prompts] 1 = first; 0, a miss, where the label is excluded, or a score is NaN or plus infinity.
    """
    if not scores_PC.size:
        return np.zeros(len(scores_PC), dtype=np.int64)

    label_scores = np.take_along_axis(scores_PC, labels_P[:, None], axis=1)
    if listed:
        earlier = np.arange(scores_PC.shape[1])[None, :] < labels_P[:, None]
        ahead = (scores_PC > label_scores) | ((scores_PC == label_scores) & earlier)
        ranks = 1 + np.count_nonzero(ahead, axis=1)
    else:
        # The label is one of them.
        ranks = np.count_nonzero(scores_PC >= label_scores, axis=1)

    # NaN is the maximum of a row that contains it.
    is_ranked = np.isfinite(label_scores[:, 0]) & np.isfinite(scores_PC.max(axis=1))
    return np.where(is_ranked, ranks, 0).astype(np.int64)


def ranks_of_users(
    scores_PC: NDArray[np.floating],
    positions_PC: NDArray[np.int64],
    rows_P: NDArray[np.int64],
    retriever_ranks_U: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Rank of each user's label by the scores of a prompt's candidates; ties go to the retriever's better candidate.

    Args:
        scores_PC: Scores in the order of the letters.
        positions_PC: Position of each letter's candidate in the retriever's list, from 0.
        rows_P: Index of the user of each prompt.
        retriever_ranks_U: Rank of the label in that list.

    Returns:
        [num_users] 1 = first, 0 = the user has no prompt, or a score is not finite.
    """
    ranks = np.zeros(len(retriever_ranks_U), dtype=np.int64)
    ranks[rows_P] = score_ranks(in_retriever_order(scores_PC, positions_PC), retriever_ranks_U[rows_P] - 1)
    return ranks


def in_retriever_order(values_PC: NDArray[Number], positions_PC: NDArray[np.int64]) -> NDArray[Number]:
    """Values reordered from the letters to the retriever's list.

    Args:
        values_PC: A value for each letter.
        positions_PC: Position of each letter's candidate in that list, from 0.
    """
    result = np.empty_like(values_PC)
    np.put_along_axis(result, positions_PC, values_PC, axis=1)
    return result


def _mean(values: Values) -> float:
    return float(values.mean()) if values.size else 0.0
