"""All figures of one test."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from llamarec.evaluation.comparison import Comparison
from llamarec.evaluation.fusion import Fusion
from llamarec.evaluation.orders import OrderReport


@dataclass(frozen=True)
class Outcome:
    """How a test came out.

    Attributes:
        comparison: The final order against the retriever's.
        letters: The letters alone against the retriever.
        fusion: How both became one.
        orders: How much the candidates' order matters; None where that was not asked.
        first_stage: What there is without the language model (retriever and titles) against the retriever.
        added: The final order against the first stage's: what the language model adds.
    """

    comparison: Comparison
    letters: Comparison
    fusion: Fusion
    orders: OrderReport | None
    first_stage: Comparison
    added: Comparison

    def as_dict(self) -> dict[str, Any]:
        """For metrics.json."""
        return {
            **self.comparison.as_dict(),
            "letters": self.letters.as_dict(),
            "first_stage": self.first_stage.as_dict(),
            "added": self.added.as_dict(),
            "fusion": asdict(self.fusion),
            "orders": self.orders.as_dict() if self.orders is not None else None,
        }
