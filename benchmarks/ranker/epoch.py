"""An epoch of the ranker as a user pays it: its training prompts, and the validations in between.

Saves and the start are less than a hundredth of it and left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STEP: Final = 12
"""Samples of an optimizer step: the recipe's."""
EVAL_STEPS: Final = 100
# Users whose label is among the 20 candidates of the published retriever (LlamaRec, table 4).
COVERED: Final = {"beauty": 0.1278, "games": 0.2126}


@dataclass(frozen=True)
class Epoch:
    """What an epoch consists of.

    Attributes:
        prompts: To train on.
        users: Of a whole validation.
        coverage: Share of them whose next item is among the candidates; only those cost a prompt.
    """

    prompts: int
    users: int
    coverage: float

    def seconds(self, per_sample: float, per_prompt: float, max_users: int) -> float:
        """Training, and a validation every 100 steps over at most so many users."""
        validations = self.prompts / STEP // EVAL_STEPS
        return self.prompts * per_sample + validations * min(self.users, max_users) * self.coverage * per_prompt
