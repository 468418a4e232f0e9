"""The trained model as one of the experts: an LRURec, or the mean of several.

Q queries, N items + 1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamarec.data.prepared import PreparedData
from llamarec.experts.known import Known, known_at, known_before_test, known_now
from llamarec.experts.queries import Queries
from llamarec.retriever.model import LRURec
from llamarec.retriever.scoring import catalogue_scores
from llamarec.vocabulary import PADDING_ITEM, Asked

MODEL: Final = "lrurec"
"""Its name among the experts."""
_FEW: Final = 5
"""Interactions of an item that the models know little of."""


class LearnedExpert:
    """Logits of a model, or the mean log-probabilities of several that differ in their seed.

    For the models, an item that nobody had taken in training was a wrong answer at every position, whatever is known of
    it since. Beside experts, such items are scored as those that few have taken.

    Args:
        models: In evaluation mode.
        max_length: They read at most so many last items.
        counts: [items + 1] how often each item was taken in the training; None: scores are left as they are.
    """

    name = MODEL

    def __init__(self, models: Sequence[LRURec], max_length: int, counts: NDArray[np.integer] | None = None) -> None:
        self._models, self._max_length, self._counts = models, max_length, counts

    @torch.inference_mode()
    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, N] minus infinity for padding.

        Raises:
            DivergedError: a score is not finite.
        """
        logits = (
            catalogue_scores(model, queries.histories, max_length=self._max_length, exclude=False)
            for model in self._models
        )
        return scores_of_members(list(logits), self._counts).numpy()

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """A model cannot say more."""
        return "it fits the sequence"


class Learned(NamedTuple):
    """The trained model, by the time that it is asked.

    Attributes:
        validation: Answers the questions of validation, and those of training prompts.
        test: Answers the test's; the same, or one that was trained once more with the validation part.
        now: Answers those of today; that of the test, or one that was trained once more on everything.
    """

    validation: LearnedExpert
    test: LearnedExpert
    now: LearnedExpert

    def at(self, known: Known) -> LearnedExpert:
        """The model that may answer where these interactions are known."""
        return {"validation": self.validation, "test": self.test, "now": self.now}[known.asked]


def learned_from(
    models: Mapping[Asked, Sequence[LRURec]], data: PreparedData, max_length: int, *, has_experts: bool
) -> Learned:
    """The experts of a retriever's models.

    Args:
        models: Its members, by the questions that they were trained for; those for validation, at least.
        data: Prepared data.
        max_length: They read at most so many last items.
        has_experts: Whether other experts are beside them.
    """
    makers: dict[Asked, Callable[[], Known]] = {
        "validation": partial(known_at, data, "validation"),
        "test": partial(known_before_test, data),
        "now": partial(known_now, data),
    }
    experts = {
        asked: LearnedExpert(of_one, max_length, makers[asked]().counts() if has_experts else None)
        for asked, of_one in models.items()
        if of_one
    }
    own = experts["validation"]
    test = experts.get("test", own)
    return Learned(own, test, experts.get("now", test))


def _without_bias_of_unseen(scores_QN: Tensor, counts: NDArray[np.integer]) -> Tensor:
    """The scores of items without a count, moved so that their mean is that of items with few."""
    unseen = counts == 0
    unseen[PADDING_ITEM] = False
    rare = (counts > 0) & (counts <= _FEW)
    if not unseen.any() or not rare.any():
        return scores_QN

    columns = torch.from_numpy(np.flatnonzero(unseen))
    difference_Q1 = scores_QN[:, np.flatnonzero(rare)].mean(dim=1, keepdim=True) - scores_QN[:, columns].mean(
        dim=1, keepdim=True
    )
    return scores_QN.index_add(1, columns, difference_Q1.expand(-1, len(columns)))


def scores_of_members(logits: Sequence[Tensor], counts: NDArray[np.integer] | None = None) -> Tensor:
    """[Q, N] the logits of one model, or the mean of several models' log-probabilities.

    Args:
        logits: [Q, N] of each model.
        counts: See `LearnedExpert`.
    """
    # log_softmax leaves minus infinity as it is, and their mean too.
    members = [one.log_softmax(dim=1) for one in logits] if len(logits) > 1 else logits
    scores_QN = torch.stack(list(members)).mean(dim=0)
    return scores_QN if counts is None else _without_bias_of_unseen(scores_QN, counts)
