"""For whom the ranker helps: the gain over the retriever by length of history and by popularity of the item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.evaluation.comparison import mean_with_interval
from llamarec.evaluation.metrics import ndcg_values
from llamarec.vocabulary import FINAL_RANK, LABEL_ID, RETRIEVER_RANK, USER_ID

_BINS: Final = 4
_K: Final = 10


@dataclass(frozen=True)
class Bin:
    """Users of a kind.

    Attributes:
        name: "3 to 5".
        num_users: Covered ones.
        retriever: NDCG@10 over them.
        ranker: The same.
        low: Of the difference's 95% interval.
        high: The same.
    """

    name: str
    num_users: int
    retriever: float
    ranker: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Ranker - retriever."""
        return self.ranker - self.retriever


def by_history(test: pl.DataFrame, data: PreparedData) -> list[Bin]:
    """By the number of items that the user had before the test item."""
    covered = test.filter(pl.col(RETRIEVER_RANK) > 0)
    lengths = [len(data.sequences.history(user, "test")) for user in covered[USER_ID]]
    return _binned(covered, np.array(lengths, dtype=np.int64))


def by_popularity(test: pl.DataFrame, data: PreparedData) -> list[Bin]:
    """By how often the item that the user took occurs in the training parts."""
    covered = test.filter(pl.col(RETRIEVER_RANK) > 0)
    counts = np.zeros(data.num_items + 1, dtype=np.int64)
    for user in range(data.num_users):
        np.add.at(counts, data.sequences.train(user), 1)
    return _binned(covered, counts[covered[LABEL_ID].to_numpy()])


def _binned(covered: pl.DataFrame, values: NDArray[np.int64]) -> list[Bin]:
    """About as many users in each."""
    if not len(values):
        return []
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:], method="higher"))
    bins, previous = [], -1
    for edge in edges:
        chosen = (values > previous) & (values <= edge)
        previous = int(edge)
        low, high = int(values[chosen].min()), int(edge)
        name = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        bins.append(_bin(name, covered.filter(pl.Series(chosen))))
    return bins


def _bin(name: str, users: pl.DataFrame) -> Bin:
    before = ndcg_values(users[RETRIEVER_RANK].to_numpy(), _K)
    after = ndcg_values(users[FINAL_RANK].to_numpy(), _K)
    _, low, high = mean_with_interval(after - before)
    return Bin(name, len(users), float(before.mean()), float(after.mean()), low, high)
