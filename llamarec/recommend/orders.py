"""What orders the items for a history: the one difference between runs that recommend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llamarec.experts.reasons import Reason
from llamarec.ranker.trained.loading import AdapterLocation

ItemIds = NDArray[np.int32]
Histories = Sequence[ItemIds]


class Ranked(NamedTuple):
    """One item of a list, in the terms of `llamarec.recommend.recommender.Recommendation`."""

    item: int
    score: float | None
    retriever_rank: int
    retriever_score: float
    title_similarity: float | None = None
    letter: str | None = None
    letter_log_probability: float | None = None
    language_model_score: float | None = None


class Order(Protocol):
    """Orders the items for histories."""

    @property
    def adapter(self) -> AdapterLocation:
        """The adapter of the run."""

    @property
    def uses_model(self) -> bool:
        """Whether the language model has a weight in the order."""

    @property
    def formula(self) -> str:
        """What the score adds up."""

    @property
    def note(self) -> str:
        """Why the language model has no weight, in one line; empty where it has one."""

    @property
    def made_of(self) -> list[str]:
        """Hashes of everything that the order depends on beside the data."""

    def lists(self, histories: Histories, k: int, times: Sequence[int] | None) -> list[list[Ranked]]:
        """The k best items, and maybe more, for each history; fewer only where no more are left.

        Args:
            histories: Item ids, oldest first, none of them empty.
            k: Number of items for each.
            times: When each is asked, in seconds since 1970; None: at the last interaction of the data set.
        """

    def reasons(self, history: ItemIds, items: ItemIds, titles: Sequence[str]) -> list[list[Reason]]:
        """The experts that speak for each item, the strongest first.

        Args:
            history: Item ids, oldest first.
            items: Items that were recommended for it.
            titles: By item id.
        """
