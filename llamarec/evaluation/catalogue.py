"""A test over the whole catalogue: the first stage, the language model, and the weighted sum of all experts.

U users
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from llamarec.evaluation.comparison import Comparison, compare_ranks
from llamarec.evaluation.fusion import Fusion


@dataclass(frozen=True)
class CatalogueWeights:
    """Weights of the sum, as metrics.json has them.

    Attributes:
        new: Weight of the language model, per unit of its logit; 0 = it adds nothing.
        gain: Log-likelihood that it adds to a held-out user beside all other experts, in nats.
        error: Standard error of the gain.
        num_prompts: Users of the fit, those whose next item is among the candidates.
        num_users: Users that were asked.
        step: Step of the adapter.
        experts: Weight of each expert of the final sum, the language model included, 0 where one was looked at in vain.
            Empty in runs of earlier versions, whose `new` is per unit of the first stage's score.
    """

    new: float
    gain: float
    error: float
    num_prompts: int
    num_users: int
    step: int = 0
    experts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CatalogueRanks:
    """[U] ranks of the next items in the whole catalogue, 1 = first, 0 = excluded."""

    known: NDArray[np.int64]
    new: NDArray[np.int64]
    final: NDArray[np.int64]


@dataclass(frozen=True)
class CatalogueOutcome:
    """Results of a test over the whole catalogue.

    Attributes:
        comparison: Final order against the first stage's.
        alone: The language model alone against the first stage.
        weights: Weights of the final score.
    """

    comparison: Comparison
    alone: Comparison
    weights: CatalogueWeights

    def as_dict(self) -> dict[str, object]:
        """Content of metrics.json; the keys of a test of letters mean the same for the reports."""
        weights = self.weights
        as_fusion = Fusion(
            letters=float(bool(weights.new)),
            alpha=1.0,
            deviation=1.0,
            letter_prior=(),
            num_prompts=weights.num_prompts,
            num_users=weights.num_users,
            step=weights.step,
            gain=weights.gain,
        )
        return {
            **self.comparison.as_dict(),
            "letters": self.alone.as_dict(),
            "fusion": asdict(as_fusion),
            "catalogue": asdict(weights),
            "orders": None,
        }


def outcome_of(ranks: CatalogueRanks, weights: CatalogueWeights) -> CatalogueOutcome:
    """Metrics with intervals from the ranks of the test users."""
    return CatalogueOutcome(compare_ranks(ranks.known, ranks.final), compare_ranks(ranks.known, ranks.new), weights)
