"""How much a ranker's answer depends on which letter a candidate has: the same prompts in several orders.

P prompts, C candidates
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamarec.evaluation.fusion import Fusion
from llamarec.evaluation.metrics import in_retriever_order, ndcg_at, ndcg_values, score_ranks

_K: Final = 10
Scores = NDArray[np.floating]


class OrderedPrompts(NamedTuple):
    """Prompts asked in one order; the prompts are the same, and in the same sequence, in every order.

    name: Of the order. logits_PC: of the letters. first_stage_PC: scores of the candidates behind them. positions_PC:
    their places in the retriever's list, from 0. labels_P: letter of the label.
    """

    name: str
    logits_PC: Scores
    first_stage_PC: Scores
    positions_PC: NDArray[np.int64]
    labels_P: NDArray[np.int64]


@dataclass(frozen=True)
class OrderRow:
    """NDCG@10 over the prompts in one order.

    Attributes:
        order: Its name.
        in_order: Of taking the candidates as they stand: A, B, C, ...
        letters: By the letters' logits alone.
        calibrated: The same without the letters' prior.
        final: By the final score.
    """

    order: str
    in_order: float
    letters: float
    calibrated: float
    final: float


@dataclass(frozen=True)
class OrderReport:
    """Attributes:
    rows: By order.
    num_prompts: In each.
    averaged: NDCG@10 of the mean of the calibrated log-probabilities over the shuffles.
    averaged_final: The same with the first stage's score.
    num_averaged: Shuffles.
    error: Standard error of one such figure (letters alone, mean over orders).
    kept_first: Share of the prompts whose first item by letters alone is the same in two orders, mean over pairs;
        then calibrated, then by the final score.
    """

    rows: list[OrderRow]
    num_prompts: int
    averaged: float
    averaged_final: float
    num_averaged: int
    error: float
    kept_first: tuple[float, float, float]

    def spread(self, column: str) -> float:
        """Between the best and the worst order."""
        values = [float(getattr(row, column)) for row in self.rows]
        return max(values) - min(values)

    def as_dict(self) -> dict[str, Any]:
        """For metrics.json."""
        spreads = {name: self.spread(name) for name in ("in_order", "letters", "calibrated", "final")}
        return {**asdict(self), "spread": spreads}


def order_report(asked: Sequence[OrderedPrompts], fusion: Fusion) -> OrderReport:
    """Compares orders.

    Args:
        asked: One for each order; those whose name begins with `shuffled` are averaged.
        fusion: The run's.
    """
    ways: list[Callable[[OrderedPrompts], Scores]] = [
        lambda one: one.logits_PC,
        lambda one: fusion.corrected(one.logits_PC),
        lambda one: fusion.scores(one.logits_PC, one.first_stage_PC),
    ]
    rows = [
        OrderRow(
            one.name,
            ndcg_at(one.labels_P + 1, _K),
            *(ndcg_at(score_ranks(way(one), one.labels_P), _K) for way in ways),
        )
        for one in asked
    ]
    shuffles = [one for one in asked if one.name.startswith("shuffled")]
    averaged, averaged_final = _averaged(shuffles, fusion, ways[1]) if shuffles else (float("nan"), float("nan"))
    kept = [_kept_first([_first_places(one, way(one)) for one in asked]) for way in ways]
    return OrderReport(
        rows,
        len(asked[0].labels_P),
        averaged,
        averaged_final,
        len(shuffles),
        _standard_error(asked),
        (kept[0], kept[1], kept[2]),
    )


def _standard_error(asked: Sequence[OrderedPrompts]) -> float:
    deviations = [ndcg_values(score_ranks(one.logits_PC, one.labels_P), _K).std() for one in asked]
    return float(np.mean(deviations) / np.sqrt(max(len(asked[0].labels_P), 1)))


def mean_in_retriever_order(
    asked: Sequence[OrderedPrompts], way: Callable[[OrderedPrompts], Scores]
) -> NDArray[np.float64]:
    """[P, C] mean over orders of what a way of scoring gives each item, in the order of the retriever's list."""
    mean_PC: NDArray[np.float64] = np.mean([in_retriever_order(way(one), one.positions_PC) for one in asked], axis=0)
    return mean_PC


def _averaged(
    shuffles: list[OrderedPrompts], fusion: Fusion, way: Callable[[OrderedPrompts], Scores]
) -> tuple[float, float]:
    """Mean over permutations, item by item (Tang et al. 2024, arXiv 2310.07712, take a median of rankings)."""
    mean_PC = mean_in_retriever_order(shuffles, way)
    labels_P = shuffles[0].positions_PC[np.arange(len(mean_PC)), shuffles[0].labels_P]
    # By place the first stage's scores are the same in every shuffle.
    one = shuffles[0]
    final_PC = fusion.combined(mean_PC, in_retriever_order(one.first_stage_PC, one.positions_PC))
    return ndcg_at(score_ranks(mean_PC, labels_P), _K), ndcg_at(score_ranks(final_PC, labels_P), _K)


def _first_places(one: OrderedPrompts, scores_PC: Scores) -> NDArray[np.int64]:
    """[P] place in the retriever's list of the candidate that is first."""
    first_P = np.argmax(np.nan_to_num(scores_PC, nan=-np.inf), axis=1)
    places: NDArray[np.int64] = one.positions_PC[np.arange(len(first_P)), first_P]
    return places


def _kept_first(firsts: list[NDArray[np.int64]]) -> float:
    pairs = [(a, b) for i, a in enumerate(firsts) for b in firsts[i + 1 :]]
    return float(np.mean([(a == b).mean() for a, b in pairs])) if pairs else 1.0
