"""The trained model as one of the experts: an LRURec, or the mean of several.

Q queries, N items + 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamarec.experts.queries import Queries
from llamarec.retriever.model import LRURec
from llamarec.retriever.scoring import catalogue_scores

MODEL: Final = "lrurec"
"""Its name among the experts."""


class LearnedExpert:
    """Logits of a model, or the mean log-probabilities of several that differ in their seed.

    Args:
        models: In evaluation mode.
        max_length: They read at most so many last items.
    """

    name = MODEL

    def __init__(self, models: Sequence[LRURec], max_length: int) -> None:
        self._models, self._max_length = models, max_length

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
        return mean_of_members(list(logits)).numpy()

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """A model cannot say more."""
        return "it fits the sequence"


def mean_of_members(logits: Sequence[Tensor]) -> Tensor:
    """[Q, N] the logits of one model, or the mean of several models' log-probabilities."""
    if len(logits) == 1:
        return logits[0]
    # log_softmax leaves minus infinity as it is, and their mean too.
    return torch.stack([one.log_softmax(dim=1) for one in logits]).mean(dim=0)
