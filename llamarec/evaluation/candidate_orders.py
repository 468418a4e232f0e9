"""Sensitivity of a ranker to the order of candidates: the same prompts in several orders.

P prompts, C candidates
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamarec.evaluation.fusion import Fusion
from llamarec.evaluation.logit import Scores
from llamarec.evaluation.metrics import in_retriever_order, ndcg_at, ndcg_values, score_ranks

_K: Final = 10


class OrderedPrompts(NamedTuple):
    """Answers to the prompts with their candidates in one order; every order has the same prompts in the same sequence.

    name: Name of the order. logits_PC: logits of the letters. first_stage_PC: first-stage scores of the letters'
    candidates. positions_PC: positions of these candidates in the retriever's list, from 0. labels_P: index of the
    label's letter.
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
        order: Name of the order.
        in_order: Candidates as listed: A, B, C, ...
        letters: Candidates by the letters' logits.
        calibrated: Candidates by the letters' log-probabilities minus their prior.
        final: Candidates by the final score.
    """

    order: str
    in_order: float
    letters: float
    calibrated: float
    final: float


@dataclass(frozen=True, kw_only=True)
class OrderReport:
    """NDCG@10 and the top item by order of the candidates.

    Attributes:
        rows: NDCG@10 by order.
        num_prompts: Prompts in each order.
        averaged: NDCG@10 by the mean of the calibrated log-probabilities over the shuffles.
        averaged_final: Likewise, combined with the first stage's score.
        num_averaged: Number of shuffles.
        error: Standard error of one NDCG@10 (by letters, mean over orders).
        kept_first: Share of prompts with the same top item in two orders, mean over pairs: by letters, calibrated, by
            the final score.
    """

    rows: list[OrderRow]
    num_prompts: int
    averaged: float
    averaged_final: float
    num_averaged: int
    error: float
    kept_first: tuple[float, float, float]

    def spread(self, column: str) -> float:
        """Difference of a column between the best and the worst order."""
        values = [float(getattr(row, column)) for row in self.rows]
        return max(values) - min(values)

    def as_dict(self) -> dict[str, object]:
        """Content of metrics.json."""
        spreads = {name: self.spread(name) for name in ("in_order", "letters", "calibrated", "final")}
        return {**asdict(self), "spread": spreads}


def order_report(asked: Sequence[OrderedPrompts], fusion: Fusion) -> OrderReport:
    """Compares the orders of the candidates.

    Args:
        asked: The prompts in each order; orders whose name starts with `shuffled` are averaged.
        fusion: Weights of the final score.
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
    kept = [_kept_first([_top_positions(one, way(one)) for one in asked]) for way in ways]

    return OrderReport(
        rows=rows,
        num_prompts=len(asked[0].labels_P),
        averaged=averaged,
        averaged_final=averaged_final,
        num_averaged=len(shuffles),
        error=_standard_error(asked),
        kept_first=(kept[0], kept[1], kept[2]),
    )


def _standard_error(asked: Sequence[OrderedPrompts]) -> float:
    deviations = [ndcg_values(score_ranks(one.logits_PC, one.labels_P), _K).std() for one in asked]
    return float(np.mean(deviations) / np.sqrt(max(len(asked[0].labels_P), 1)))


def mean_in_retriever_order(
    asked: Sequence[OrderedPrompts], way: Callable[[OrderedPrompts], Scores]
) -> NDArray[np.float64]:
    """[P, C] mean over orders of each candidate's score, in the order of the retriever's list."""
    mean_PC: NDArray[np.float64] = np.mean([in_retriever_order(way(one), one.positions_PC) for one in asked], axis=0)
    return mean_PC


def _averaged(
    shuffles: list[OrderedPrompts], fusion: Fusion, way: Callable[[OrderedPrompts], Scores]
) -> tuple[float, float]:
    """NDCG@10 of mean scores over shuffles (Tang et al. 2024, arXiv 2310.07712, take a median of rankings)."""
    mean_PC = mean_in_retriever_order(shuffles, way)
    labels_P = shuffles[0].positions_PC[np.arange(len(mean_PC)), shuffles[0].labels_P]
    # In the retriever's order the first stage's scores are equal in every shuffle.
    one = shuffles[0]
    final_PC = fusion.combined(mean_PC, in_retriever_order(one.first_stage_PC, one.positions_PC))
    return ndcg_at(score_ranks(mean_PC, labels_P), _K), ndcg_at(score_ranks(final_PC, labels_P), _K)


def _top_positions(one: OrderedPrompts, scores_PC: Scores) -> NDArray[np.int64]:
    """[P] position in the retriever's list of the top candidate."""
    first_P = np.argmax(np.where(np.isfinite(scores_PC), scores_PC, -np.inf), axis=1)
    positions: NDArray[np.int64] = one.positions_PC[np.arange(len(first_P)), first_P]
    return positions


def _kept_first(firsts: list[NDArray[np.int64]]) -> float:
    pairs = [(a, b) for i, a in enumerate(firsts) for b in firsts[i + 1 :]]
    return float(np.mean([(a == b).mean() for a, b in pairs])) if pairs else 1.0
