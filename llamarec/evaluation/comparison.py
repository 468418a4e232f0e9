"""Retriever and ranker side by side on the same users, with paired bootstrap intervals.

*subset*: users whose next item is among the candidates, the only ones whose metrics a ranker can change.
*overall*: all users; a next item outside the candidates is a miss. Overall = coverage x subset.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llamarec.evaluation.metrics import METRICS, Ranks, metric_values

# At a cutoff of 1 all three metrics are equal.
COMPARED: Final = ("recall@1", *(f"{kind}@{k}" for k in (5, 10) for kind in METRICS))
_NUM_RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Row:
    """One metric of both stages, with a 95% interval (low, high) of the difference (ranker - retriever)."""

    metric: str
    retriever: float
    ranker: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Both stages on the same users.

    Attributes:
        num_users: All users.
        num_covered: The users whose next item is among the candidates.
        subset: Means over the covered users.
        overall: Means over all users.
    """

    num_users: int
    num_covered: int
    subset: list[Row]
    overall: list[Row]

    @property
    def coverage(self) -> float:
        """Share of users whose next item is among the candidates."""
        return self.num_covered / self.num_users if self.num_users else 0.0

    def as_dict(self) -> dict[str, object]:
        """Content of metrics.json."""
        return {"coverage": self.coverage, **asdict(self)}


def compare_ranks(retriever_ranks: Ranks, ranker_ranks: Ranks, *, seed: int = 0) -> Comparison:
    """Compares two rankings of the same users' candidates.

    Args:
        retriever_ranks: [num_users] 1 = first, 0 = not among the candidates.
        ranker_ranks: [num_users] likewise by the ranker; 0 for the same users at least.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: the arrays differ in length.
    """
    if retriever_ranks.shape != ranker_ranks.shape:
        raise ValueError(f"ranks of {retriever_ranks.shape} and {ranker_ranks.shape} users cannot be paired")

    covered = retriever_ranks > 0
    return Comparison(
        num_users=len(retriever_ranks),
        num_covered=int(covered.sum()),
        subset=_rows(retriever_ranks[covered], ranker_ranks[covered], seed),
        overall=_rows(retriever_ranks, ranker_ranks, seed),
    )


def paired_bootstrap(
    differences: NDArray[np.float64], weights: NDArray[np.int64], *, seed: int = 0, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile intervals of mean differences over users (Efron and Tibshirani 1993, section 13.3).

    Users with equal differences are interchangeable, so drawing n users with replacement equals a multinomial draw over
    the distinct rows. This is exact, and its cost does not depend on the number of users.

    Args:
        differences: [num_distinct, num_metrics] distinct per-user differences.
        weights: [num_distinct] number of users with each of them.
        seed: Seed of the draws.
        confidence: Share of resamples within the interval.

    Returns:
        Lower and upper bounds, [num_metrics] each.
    """
    num_users = int(weights.sum())
    if not num_users:
        nothing = np.zeros(differences.shape[1])
        return nothing, nothing

    draws = np.random.default_rng(seed).multinomial(num_users, weights / num_users, size=_NUM_RESAMPLES)
    means = draws @ differences / num_users

    tail = (1.0 - confidence) / 2.0
    return np.quantile(means, tail, axis=0), np.quantile(means, 1.0 - tail, axis=0)


def _rows(retriever_ranks: Ranks, ranker_ranks: Ranks, seed: int) -> list[Row]:
    pairs, weights = np.unique(np.stack([retriever_ranks, ranker_ranks], axis=1), axis=0, return_counts=True)

    before = np.stack([metric_values(name, pairs[:, 0]) for name in COMPARED], axis=1)
    after = np.stack([metric_values(name, pairs[:, 1]) for name in COMPARED], axis=1)
    low, high = paired_bootstrap(after - before, weights, seed=seed)

    num_users = max(int(weights.sum()), 1)
    old, new = weights @ before / num_users, weights @ after / num_users
    return [
        Row(name, float(old[i]), float(new[i]), float(new[i] - old[i]), float(low[i]), float(high[i]))
        for i, name in enumerate(COMPARED)
    ]


def mean_with_interval(values_N: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of per-user values and its 95% interval (`paired_bootstrap`)."""
    distinct, counts = np.unique(values_N, return_counts=True)
    low, high = paired_bootstrap(distinct[:, None], counts)
    return float(values_N.mean()), float(low[0]), float(high[0])
