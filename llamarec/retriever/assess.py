"""The sum of experts on a split: candidates, ranks of the labels, and the ranks by each expert alone.

U users, K candidates
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.evaluation.metrics import score_ranks
from llamarec.experts.expert_sum import ExpertSum, exclude
from llamarec.experts.known import queries_of
from llamarec.experts.queries import Expert, Queries, blocks_of
from llamarec.vocabulary import Split


@dataclass(frozen=True)
class Assessed:
    """What a sum says of the users with a label.

    Attributes:
        user_ids: [rows] users with K candidates.
        item_ids: [rows, K] best first.
        scores: [rows, K] weighted sums.
        ranks: [U] rank of each user's label in the whole catalogue, 1 = first, 0 = excluded.
        ranks_alone: Likewise, by each expert alone.
    """

    user_ids: NDArray[np.int32]
    item_ids: NDArray[np.int32]
    scores: NDArray[np.float32]
    ranks: NDArray[np.int64]
    ranks_alone: dict[str, NDArray[np.int64]]


def assess(expert_sum: ExpertSum, alone: Sequence[Expert], data: PreparedData, split: Split, k: int) -> Assessed:
    """Candidates and ranks of all users with a label.

    Args:
        expert_sum: Orders the catalogue.
        alone: Experts whose own order is of interest; those of the sum among them are asked once.
        data: Prepared data.
        split: Whose labels.
        k: Number of candidates.

    Raises:
        DivergedError: a score of the retriever is not finite.
    """
    users = data.sequences.users_with_label(split)
    labels = np.array([data.sequences.label(int(user), split) for user in users], dtype=np.int64)
    queries = queries_of(data, split, users)

    items = np.zeros((len(users), k), dtype=np.int32)
    scores = np.full((len(users), k), -np.inf, dtype=np.float32)
    ranks = np.zeros(len(users), dtype=np.int64)
    ranks_alone = {expert.name: np.zeros(len(users), dtype=np.int64) for expert in alone}

    for block in blocks_of(len(users), data.num_items):
        part = queries.part(block.start, block.stop)
        given = {expert.name: expert.scores(part) for expert in alone}
        totals_BN = expert_sum.scores(part, given)
        ranks[block] = score_ranks(totals_BN, labels[block], listed=False)
        for name, scores_BN in given.items():
            ranks_alone[name][block] = _ranks_of_one(scores_BN, part, labels[block], expert_sum.excludes_history)

        best = torch.from_numpy(totals_BN).topk(k, dim=1)
        items[block], scores[block] = best.indices.numpy(), best.values.numpy()

    has_all = np.isfinite(scores[:, -1])
    return Assessed(users[has_all], items[has_all], scores[has_all], ranks, ranks_alone)


def _ranks_of_one(
    scores_BN: NDArray[np.float32], queries: Queries, labels_B: NDArray[np.int64], excludes_history: bool
) -> NDArray[np.int64]:
    # Some experts return the same array twice.
    own_BN = scores_BN.copy()
    exclude(own_BN, queries.histories if excludes_history else None)
    return score_ranks(own_BN, labels_B, listed=False)
