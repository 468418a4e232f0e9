"""Which experts count, and how much: a conditional logit on validation users.

Experts are added one by one, the most promising first, and at the end each is tried without. One stays where it raises
the log-likelihood of prompts outside the fit by more than a standard error, and where it speaks *for* items. With a
negative weight, an expert of past popularity would tell an expert that has counted the future which of its counts are
still to come.

P prompts, C candidates, E experts
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llamarec.evaluation.logit import (
    Matrix,
    conditional_logit,
    deviation_of,
    held_out_gain,
    log_softmax,
    standardised,
)
from llamarec.experts.prompts import WeightPrompts

EXPERTS_FILE: Final = "experts.json"
_LEAST_PROMPTS: Final = 20
"""With fewer, chance decides."""


@dataclass(frozen=True)
class ExpertEvidence:
    """What the fit found out about one expert; part of experts.json.

    Attributes:
        name: The expert.
        weight: Its weight per unit of its scores; 0: it is not used.
        gain: Log-likelihood that it adds to a prompt outside the fit, beside all others that count, in nats.
        error: Standard error of the gain.
    """

    name: str
    weight: float
    gain: float
    error: float


@dataclass(frozen=True)
class ExpertWeights:
    """Content of experts.json.

    Attributes:
        experts: All that were looked at; those that count first, the one that adds most at the top.
        num_prompts: Prompts of the fit.
        num_users: Validation users, including those whose next item no expert proposed.
    """

    experts: tuple[ExpertEvidence, ...]
    num_prompts: int = 0
    num_users: int = 0

    @property
    def is_alone(self) -> bool:
        """Whether the order is that of one expert, and nothing was fitted."""
        return len(self.experts) == 1

    @property
    def by_name(self) -> dict[str, float]:
        """Weights of the experts that count."""
        return {one.name: one.weight for one in self.experts if one.weight}

    def of(self, name: str) -> ExpertEvidence:
        """What was found out about one expert; nothing where it was not looked at."""
        return next((one for one in self.experts if one.name == name), ExpertEvidence(name, 0.0, 0.0, 0.0))

    def as_bytes(self) -> bytes:
        """Bytes of experts.json."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def only(name: str) -> ExpertWeights:
    """The weights of a sum of one expert, whose scores it leaves unchanged."""
    return ExpertWeights((ExpertEvidence(name, 1.0, 0.0, 0.0),))


def weights_text(weights: ExpertWeights) -> str:
    """One line on the experts that count."""
    terms = " + ".join(f"{weight:.2f} {name}" for name, weight in weights.by_name.items())
    left_out = [one.name for one in weights.experts if not one.weight]
    unused = f"; nothing is added by {', '.join(left_out)}" if left_out else ""
    return f"{terms}{unused} ({weights.num_prompts:,} validation prompts)"


def fit_weights(names: Sequence[str], prompts: WeightPrompts) -> ExpertWeights:
    """Chooses experts and fits their weights.

    Args:
        names: [E] names of the experts. The first one alone counts where there is too little to fit.
        prompts: Validation prompts.
    """
    if len(prompts.labels_P) < _LEAST_PROMPTS:
        return ExpertWeights(only(names[0]).experts, len(prompts.labels_P), prompts.num_users)

    units_E = [deviation_of(prompts.scores_PCE[:, :, number]) for number in range(len(names))]
    features_PCE = np.stack(
        [standardised(prompts.scores_PCE[:, :, number], unit) for number, unit in enumerate(units_E)], axis=2
    )
    chosen = _add(features_PCE, prompts.labels_P)
    chosen, evidence = _without_the_superfluous(features_PCE, prompts.labels_P, chosen)
    if not chosen:
        # Nothing can be told apart: the order is the first one's own, and the others are said to add nothing to it.
        evidence = {number: _beside(features_PCE, prompts.labels_P, number, [0]) for number in range(len(names))}
        first, *others = (ExpertEvidence(name, 0.0, *evidence[number]) for number, name in enumerate(names))
        return ExpertWeights((replace(first, weight=1.0), *others), len(prompts.labels_P), prompts.num_users)

    weights = dict(zip(chosen, conditional_logit(features_PCE[:, :, chosen], prompts.labels_P), strict=True))
    order = [*chosen, *(number for number in range(len(names)) if number not in chosen)]
    experts = [
        ExpertEvidence(names[number], float(weights.get(number, 0.0)) / units_E[number], *evidence[number])
        for number in order
    ]
    return ExpertWeights(tuple(experts), len(prompts.labels_P), prompts.num_users)


def _add(features_PCE: Matrix, labels_P: NDArray[np.int64]) -> list[int]:
    """Experts that added something when their turn came."""
    chosen: list[int] = []
    left = list(range(features_PCE.shape[2]))

    while left:
        for number in _most_promising(features_PCE, labels_P, chosen, left):
            gain, error = held_out_gain(features_PCE[:, :, [number, *chosen]], labels_P)
            weights = conditional_logit(features_PCE[:, :, [*chosen, number]], labels_P)
            if gain > error and weights[-1] > 0:
                # The new one may say better what an earlier one said.
                chosen = [one for one, weight in zip([*chosen, number], weights, strict=True) if weight > 0]
                left.remove(number)
                break
        else:
            break
    return chosen


def _without_the_superfluous(
    features_PCE: Matrix, labels_P: NDArray[np.int64], chosen: list[int]
) -> tuple[list[int], dict[int, tuple[float, float]]]:
    """Those that add something beside all others, and gain and error of every expert beside them."""

    def beside(number: int) -> tuple[float, float]:
        return _beside(features_PCE, labels_P, number, chosen)

    evidence = {number: beside(number) for number in chosen}
    while superfluous := [number for number in chosen if evidence[number][0] <= evidence[number][1]]:
        chosen = [number for number in chosen if number != min(superfluous, key=lambda one: evidence[one])]
        evidence = {number: beside(number) for number in chosen}

    chosen = sorted(chosen, key=lambda number: -evidence[number][0])
    return chosen, evidence | {
        number: beside(number) for number in range(features_PCE.shape[2]) if number not in chosen
    }


def _beside(features_PCE: Matrix, labels_P: NDArray[np.int64], number: int, chosen: list[int]) -> tuple[float, float]:
    """What an expert adds to the others of those chosen, and its standard error."""
    return held_out_gain(features_PCE[:, :, [number, *(one for one in chosen if one != number)]], labels_P)


def _most_promising(features_PCE: Matrix, labels_P: NDArray[np.int64], chosen: list[int], left: list[int]) -> list[int]:
    """Those that are left, by the likelihood that a small weight would add: the score test (Rao 1948)."""
    weights = conditional_logit(features_PCE[:, :, chosen], labels_P) if chosen else np.zeros(0)
    p_PC = np.exp(log_softmax(features_PCE[:, :, chosen] @ weights))

    def statistic(number: int) -> float:
        scores_PC = features_PCE[:, :, number]
        mean_P = (p_PC * scores_PC).sum(axis=1)
        slope = float((scores_PC[np.arange(len(labels_P)), labels_P] - mean_P).sum())
        curvature = float(((p_PC * scores_PC**2).sum(axis=1) - mean_P**2).sum())
        return slope * abs(slope) / max(curvature, 1e-9)

    return sorted(left, key=lambda number: -statistic(number))
