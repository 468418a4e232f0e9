"""Validation prompts for the weights: each user's best items by every expert, and the one taken next.

P prompts, C candidates, E experts, N items + 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.experts.expert_sum import exclude
from llamarec.experts.known import queries_of
from llamarec.experts.queries import Expert, blocks_of

_CANDIDATES: Final = 256
_OF_FIRST: Final = 100
_OF_OTHERS: Final = 25
MOST_USERS: Final = 12_000
"""Enough to fit ten weights; more would only take longer."""


class WeightPrompts(NamedTuple):
    """What the weights are fitted on.

    scores_PCE: Scores of the candidates by every expert.
    labels_P: Index of the item taken next.
    num_users: Users that were looked at, those whose item no expert proposed included.
    """

    scores_PCE: NDArray[np.float32]
    labels_P: NDArray[np.int64]
    num_users: int


def weight_prompts(
    experts: Sequence[Expert],
    data: PreparedData,
    *,
    excludes_history: bool,
    users: NDArray[np.integer] | None = None,
) -> WeightPrompts:
    """Prompts of the validation users, or of a part of them that is drawn.

    Args:
        experts: The first one proposes most candidates.
        data: Prepared data.
        excludes_history: Whether items of the history are no candidates.
        users: Ids of the validation users that may be asked, ascending; None: all.
    """
    if users is None:
        users = data.sequences.users_with_label("validation")
    if len(users) > MOST_USERS:
        users = np.sort(np.random.default_rng(0).choice(users, MOST_USERS, replace=False))

    queries = queries_of(data, "validation", users)
    labels = np.array([data.sequences.label(int(user), "validation") for user in users])
    longest = max((len(history) for history in queries.histories), default=0) if excludes_history else 0
    num_candidates = min(_CANDIDATES, data.num_items - longest)

    scores, found = [], []
    for block in blocks_of(len(users), data.num_items) if num_candidates > 1 else ():
        part = queries.part(block.start, block.stop)
        scores_EBN = np.stack([expert.scores(part) for expert in experts])
        for scores_BN in scores_EBN:
            exclude(scores_BN, part.histories if excludes_history else None)

        items_BC = _union(scores_EBN, num_candidates)
        hits_BC = items_BC == labels[block][:, None]
        covered = np.flatnonzero(hits_BC.any(axis=1))
        chosen_EBC = np.take_along_axis(scores_EBN[:, covered], items_BC[None, covered], axis=2)
        scores.append(np.moveaxis(chosen_EBC, 0, 2))
        found.append(hits_BC[covered].argmax(axis=1))

    if not scores:
        return WeightPrompts(np.zeros((0, 1, len(experts)), np.float32), np.zeros(0, np.int64), len(users))
    return WeightPrompts(np.concatenate(scores), np.concatenate(found), len(users))


def _union(scores_EBN: NDArray[np.float32], num_candidates: int) -> NDArray[np.int64]:
    """[B, C] the best items of every expert; where they propose the same, more of the first one's."""
    first_BC = _best(scores_EBN[0], num_candidates)
    others = [_best(scores_BN, min(_OF_OTHERS, num_candidates)) for scores_BN in scores_EBN[1:]]
    proposed = np.concatenate([first_BC[:, :_OF_FIRST], *others, first_BC[:, _OF_FIRST:]], axis=1)
    return np.array([list(dict.fromkeys(row))[:num_candidates] for row in proposed.tolist()])


def _best(scores_BN: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """[B, k] items with the highest scores, best first; among equal ones the lower id."""
    top = np.argpartition(-scores_BN, k - 1, axis=1)[:, :k]
    top.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores_BN, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)
