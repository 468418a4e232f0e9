"""The results of one test."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from llamarec.evaluation.candidate_orders import OrderReport
from llamarec.evaluation.comparison import Comparison
from llamarec.evaluation.fusion import Fusion


@dataclass(frozen=True)
class Outcome:
    """Results of one test.

    Attributes:
        comparison: Final order against the retriever's.
        letters: Letters alone against the retriever.
        fusion: Weights of the final score.
        orders: Sensitivity to the order of candidates; None where it was not measured.
        first_stage: Retriever and titles, without the language model, against the retriever.
        added: Final order against the first stage's: what the language model adds.
    """

    comparison: Comparison
    letters: Comparison
    fusion: Fusion
    orders: OrderReport | None
    first_stage: Comparison
    added: Comparison

    def as_dict(self) -> dict[str, object]:
        """Content of metrics.json."""
        return {
            **self.comparison.as_dict(),
            "letters": self.letters.as_dict(),
            "first_stage": self.first_stage.as_dict(),
            "added": self.added.as_dict(),
            "fusion": asdict(self.fusion),
            "orders": self.orders.as_dict() if self.orders is not None else None,
        }
