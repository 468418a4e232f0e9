"""Ranks and top-k over the whole catalogue, in blocks of users: memory does not grow with users x items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamarec.data.prepared import PreparedData
from llamarec.errors import DivergedError
from llamarec.evaluation.metrics import score_ranks
from llamarec.experts.queries import blocks_of
from llamarec.retriever.batches import pack
from llamarec.retriever.model import LRURec
from llamarec.vocabulary import PADDING_ITEM, Split


class _Block(NamedTuple):
    """Users, their labels, and scores of all items, minus infinity for excluded ones."""

    user_ids: NDArray[np.int32]
    labels_B: NDArray[np.int64]
    scores_BN: Tensor


def label_ranks(
    model: LRURec, data: PreparedData, split: Split, *, max_length: int, exclude: bool
) -> NDArray[np.int64]:
    """Rank of each user's label in the whole catalogue: [num_users], 1 = first, 0 = excluded.

    Raises:
        DivergedError: a score is not finite.
    """
    blocks = _blocks(model, data, split, max_length, exclude)
    ranks = [score_ranks(block.scores_BN.numpy(), block.labels_B, listed=False) for block in blocks]
    return np.concatenate(ranks) if ranks else np.zeros(0, dtype=np.int64)


def top_k(
    model: LRURec, data: PreparedData, split: Split, k: int, *, max_length: int, exclude: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """The k best items of every user with a label, but for those who have fewer left.

    Returns:
        user_ids [num_rows], item_ids [num_rows, k] best first, scores [num_rows, k].
    """
    users, items, scores = [], [], []

    for block in _blocks(model, data, split, max_length, exclude):
        best = block.scores_BN.topk(k, dim=1)
        has_all = ~torch.isinf(best.values[:, -1])
        users.append(block.user_ids[has_all.numpy()])
        items.append(best.indices[has_all].numpy().astype(np.int32))
        scores.append(best.values[has_all].numpy())

    return np.concatenate(users), np.concatenate(items), np.concatenate(scores)


@torch.no_grad()
def _blocks(model: LRURec, data: PreparedData, split: Split, max_length: int, exclude: bool) -> Iterator[_Block]:
    was_training = model.training
    model.eval()
    users, vectors_ND = data.sequences.users_with_label(split), model.vectors()
    for block in blocks_of(len(users), data.num_items):
        yield _score(model, data, users[block], vectors_ND, split, max_length, exclude)
    model.train(was_training)


def _score(
    model: LRURec,
    data: PreparedData,
    users: NDArray[np.int32],
    vectors_ND: Tensor,
    split: Split,
    max_length: int,
    exclude: bool,
) -> _Block:
    histories = [data.sequences.history(int(user), split) for user in users]
    labels_B = np.array([data.sequences.label(int(user), split) for user in users], dtype=np.int64)
    scores_BN = catalogue_scores(model, histories, max_length=max_length, exclude=exclude, vectors_ND=vectors_ND)
    return _Block(users, labels_B, scores_BN)


def catalogue_scores(
    model: LRURec,
    histories: Sequence[NDArray[np.int32]],
    *,
    max_length: int,
    exclude: bool,
    vectors_ND: Tensor | None = None,
) -> Tensor:
    """Scores of all items as the next one after each history: [num_histories, items + 1].

    Minus infinity for padding, and with `exclude` for items of the history.

    Args:
        model: A model in evaluation mode.
        histories: Item ids, oldest first, none of them empty.
        max_length: The model reads at most so many last items.
        exclude: Whether items of the history are left out.
        vectors_ND: `model.vectors()`, where the caller has them.

    Raises:
        DivergedError: a score is not finite.
    """
    packed = pack([history[-max_length:] for history in histories])
    vectors_ND = model.vectors() if vectors_ND is None else vectors_ND
    states_TD = model(packed.items_T, packed.positions_T, vectors_ND)
    scores_BN = finite(model.scores(states_TD[packed.lasts_B], vectors_ND))
    scores_BN[:, PADDING_ITEM] = -torch.inf

    if exclude:
        rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        # The whole history, not only the part that the model reads.
        scores_BN[torch.from_numpy(rows), torch.from_numpy(np.concatenate(histories).astype(np.int64))] = -torch.inf
    return scores_BN


def finite(scores_BN: Tensor) -> Tensor:
    """The same scores.

    Raises:
        DivergedError: one of them is not finite.
    """
    # A sum is the cheapest question that NaN and infinity answer.
    if not torch.isfinite(scores_BN.sum(dtype=torch.float64)):
        raise DivergedError(
            "the retriever's scores are not finite: its training has diverged",
            hint="train it again: add --restart and a lower --learning_rate to the command of train_retriever.py",
        )
    return scores_BN
