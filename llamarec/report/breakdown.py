"""Which users the ranker helps: the gain over the retriever by length of history and by popularity of the item."""

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
    """A group of covered users (whose next item the retriever proposed).

    Attributes:
        name: Range of values, such as "3 to 5".
        num_users: Number of users.
        retriever: Mean NDCG@10 of the retriever.
        ranker: Mean NDCG@10 of the ranker.
        low: Lower end of the difference's 95% interval.
        high: Upper end.
    """

    name: str
    num_users: int
    retriever: float
    ranker: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Ranker minus retriever."""
        return self.ranker - self.retriever


def by_history(test: pl.DataFrame, data: PreparedData) -> list[Bin]:
    """Groups by the number of items before the test item."""
    covered = test.filter(pl.col(RETRIEVER_RANK) > 0)
    lengths = [len(data.sequences.history(user, "test")) for user in covered[USER_ID]]
    return _binned(covered, np.array(lengths, dtype=np.int64))


def by_popularity(test: pl.DataFrame, data: PreparedData) -> list[Bin]:
    """Groups by how often the test item occurs in the training data."""
    covered = test.filter(pl.col(RETRIEVER_RANK) > 0)
    counts = np.zeros(data.num_items + 1, dtype=np.int64)
    for user in range(data.num_users):
        np.add.at(counts, data.sequences.train(user), 1)
    return _binned(covered, counts[covered[LABEL_ID].to_numpy()])


def _binned(covered: pl.DataFrame, values: NDArray[np.int64]) -> list[Bin]:
    """At most four groups of about the same size."""
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
