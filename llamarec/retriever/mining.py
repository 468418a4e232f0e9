"""Hard negatives: the items that the first stage proposes at each training position, without the label.

A list is computed from the items before its position alone, as at evaluation: nothing later, the label included, is an
input. Items of the history are excluded by the same rule as there. Later items of the user are not excluded, since
leaving them out would tell a ranker what the user takes next.

    P positions, N items + 1, K items of a list
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.evaluation.metrics import score_ranks
from llamarec.experts.expert_sum import ExpertSum, exclude
from llamarec.experts.known import known_at
from llamarec.experts.queries import Queries
from llamarec.retriever.batches import pack
from llamarec.retriever.hard_negatives import TrainingLists
from llamarec.retriever.learned_expert import MODEL, scores_of_members
from llamarec.retriever.model import LRURec
from llamarec.retriever.scoring import finite
from llamarec.vocabulary import PADDING_ITEM

_MOST_POSITIONS: Final = 2048
_MOST_SCORES: Final = 32_000_000  # 128 MB


class _Window(NamedTuple):
    """Part of a user's training sequence that the model reads.

    before: items of the user before `items`. items: what the model reads. labels: the items that follow, one for each
    item of the window after the first `warm` ones. times: when the item before each label was taken.
    """

    before: NDArray[np.int32]
    items: NDArray[np.int32]
    labels: NDArray[np.int32]
    times: NDArray[np.int64]
    warm: int

    def histories(self) -> list[NDArray[np.int32]]:
        """The items before each label."""
        seen = np.concatenate([self.before, self.items])
        first = len(self.before) + self.warm + 1
        return [seen[: first + number] for number in range(len(self.labels))]


def mine_hard_negatives(
    models: Sequence[LRURec],
    data: PreparedData,
    k: int,
    *,
    max_length: int,
    exclude: bool,
    users: Iterable[int] | None = None,
    order: ExpertSum | None = None,
) -> TrainingLists:
    """Lists of a trained retriever, users and positions in order.

    Sequences longer than `max_length` are read in windows that overlap by half, so at least half of `max_length` items
    precede each position.

    Args:
        models: A trained retriever, or its members.
        data: Prepared data.
        k: Length of a list.
        max_length: The model reads at most so many items.
        exclude: Whether items of the history are left out.
        users: Ids of the users; None: all.
        order: The sum that the retriever is a part of; None: the retriever alone.
    """
    counts = None if order is None else known_at(data, "validation").counts()
    were_training = [model.training for model in models]
    for model in models:
        model.eval()
    with torch.no_grad():
        blocks = [_block_lists(models, block, k, exclude, order, counts) for block in _blocks(data, max_length, users)]
    for model, was_training in zip(models, were_training, strict=True):
        model.train(was_training)

    if not blocks:
        return TrainingLists(np.zeros((0, k), dtype=np.int32), np.zeros(0, dtype=np.int32))
    items, ranks, _ = zip(*blocks, strict=True)
    return TrainingLists(np.concatenate(items), np.concatenate(ranks))


def _blocks(data: PreparedData, max_length: int, users: Iterable[int] | None) -> Iterator[list[_Window]]:
    # Of a large catalogue fewer, down to a single window.
    num_positions = min(_MOST_POSITIONS, _MOST_SCORES // (data.num_items + 1))
    block: list[_Window] = []
    for user in range(data.num_users) if users is None else users:
        start = data.sequences.offsets[user]
        times = data.sequences.timestamps[start : start + data.sequences.train_ends[user]]
        for window in _windows(data.sequences.train(user), times, max_length):
            block.append(window)
            if sum(len(one.labels) for one in block) >= num_positions:
                yield block
                block = []
    if block:
        yield block


def _windows(items: NDArray[np.int32], times: NDArray[np.int64], max_length: int) -> Iterator[_Window]:
    """Windows whose labels are the items from the second on, each once and in order.

    >>> [(w.items.tolist(), w.labels.tolist()) for w in _windows(np.arange(1, 8), np.arange(7), 4)]
    [([1, 2, 3, 4], [2, 3, 4, 5]), ([3, 4, 5, 6], [6, 7])]
    """
    done, last = 0, len(items) - 1
    while done < last:
        end = min(last, max_length if not done else done + max(max_length // 2, 1))
        start = max(0, end - max_length)
        yield _Window(items[:start], items[start:end], items[done + 1 : end + 1], times[done:end], done - start)
        done = end


def _block_lists(
    models: Sequence[LRURec],
    block: list[_Window],
    k: int,
    excludes_history: bool,
    order: ExpertSum | None,
    counts: NDArray[np.integer] | None,
) -> TrainingLists:
    histories = [history for window in block for history in window.histories()]
    scores_PN = scores_of_members([_logits(model, block) for model in models], counts)
    if order is not None:
        queries = Queries(histories, np.concatenate([window.times for window in block]))
        scores_PN = torch.from_numpy(order.totals(queries, {MODEL: scores_PN.numpy()}))
    scores_PN[:, PADDING_ITEM] = -torch.inf

    labels_P = np.concatenate([window.labels for window in block]).astype(np.int64)
    labels_P1 = torch.from_numpy(labels_P)[:, None]
    label_scores_P1 = scores_PN.gather(1, labels_P1)
    if excludes_history:
        exclude(scores_PN.numpy(), histories)
        # The label has a rank even where the user took it before.
        scores_PN.scatter_(1, labels_P1, label_scores_P1)
    ranks_P = score_ranks(scores_PN.numpy(), labels_P, listed=False)
    scores_PN.scatter_(1, labels_P1, -torch.inf)

    best = scores_PN.topk(min(k, scores_PN.shape[1]), dim=1)
    items = torch.where(torch.isinf(best.values), PADDING_ITEM, best.indices).numpy().astype(np.int32)
    items = np.pad(items, ((0, 0), (0, k - items.shape[1])))
    return TrainingLists(items, ranks_P.astype(np.int32))


def _logits(model: LRURec, block: list[_Window]) -> torch.Tensor:
    """[P, N] logits at all positions of a block."""
    packed = pack([window.items for window in block])
    wanted = np.concatenate([np.arange(len(window.items)) >= window.warm for window in block])
    states_PD = model(packed.items_T, packed.positions_T)[torch.from_numpy(wanted)]
    return finite(model.scores(states_PD))
