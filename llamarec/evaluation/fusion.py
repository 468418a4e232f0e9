"""The final score of a candidate: what its letter got, corrected for the letter, and what the first stage gave it.

    score = log p(letter) - prior(letter) + alpha * z(first stage)
    first stage = retriever score + title_weight * title similarity

z is a score less its mean in the prompt, in units of its deviation over all validation prompts: where the first stage
is sure its scores lie further apart, and in the sum they should. The prior is the mean log-probability of each letter
over validation prompts whose candidates were shuffled, where every letter is as likely to be right as any other (a
model's liking for letters as such: PriDe, Zheng et al. 2024, arXiv 2309.03882, section 4). alpha comes from a
conditional logit (McFadden 1974) on the same prompts. Where log p does not add to the likelihood of prompts that the
fit has not seen (cross-validation, by more than a standard error), it gets no weight: the order is the first stage's.

    P prompts, C candidates
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llamarec.errors import ArtifactError
from llamarec.evaluation.logit import Matrix, deviation_of, log_softmax, standardised, weigh

FUSION_FILE: Final = "fusion.json"


@dataclass(frozen=True)
class Fusion:
    """How letters and retriever become one score.

    Attributes:
        letters: Weight of the letters' corrected log-probabilities: 1, or 0 where they add nothing.
        alpha: Weight of the standardised scores of the first stage.
        deviation: Of the first stage's scores within a prompt, over the validation prompts.
        letter_prior: [C] log-probability that is taken off each letter; all 0 where it was not calibrated.
        num_prompts: Validation prompts that it was fitted on.
        num_users: Validation users, those without a prompt included.
        step: Of the adapter.
        gain: Log-likelihood per prompt that the letters added on prompts not fitted on, in nats.
        shuffles: Of each prompt's candidates that the letters' log-probabilities are a mean over.
        title_weight: Of the title similarity in the first stage, for a unit of the retriever's score; 0 = not used.
    """

    letters: float
    alpha: float
    deviation: float
    letter_prior: tuple[float, ...]
    num_prompts: int = 0
    num_users: int = 0
    step: int = 0
    gain: float = 0.0
    shuffles: int = 1
    title_weight: float = 0.0

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> Fusion:
        """From what JSON has kept of one: fusion.json, or `fusion` in metrics.json."""
        return cls(**{**content, "letter_prior": tuple(float(one) for one in content["letter_prior"])})

    def corrected(self, logits_PC: NDArray[Any]) -> Matrix:
        """[P, C] log-probabilities of the letters less their prior."""
        corrected_PC: Matrix = log_softmax(logits_PC) - np.array(self.letter_prior)
        return corrected_PC

    def combined(self, corrected_PC: Matrix, first_stage_PC: NDArray[Any]) -> Matrix:
        """[P, C] final scores from corrected log-probabilities; no number where one of those is none and counts."""
        scores_PC = self.alpha * standardised(first_stage_PC, self.deviation)
        return scores_PC + self.letters * corrected_PC if self.letters else scores_PC

    def scores(self, logits_PC: NDArray[Any], first_stage_PC: NDArray[Any]) -> Matrix:
        """[P, C] final scores from logits."""
        return self.combined(self.corrected(logits_PC), first_stage_PC)

    def as_bytes(self) -> bytes:
        """The content of fusion.json."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def fit_fusion(
    corrected_PC: Matrix,
    first_stage_PC: NDArray[Any],
    labels_P: NDArray[np.int64],
    *,
    prior_C: NDArray[np.float64],
    num_users: int = 0,
    step: int = 0,
    shuffles: int = 1,
    title_weight: float = 0.0,
) -> Fusion:
    """Fits the weights on validation prompts.

    Args:
        corrected_PC: The letters' log-probabilities, less their prior.
        first_stage_PC: Scores of the same candidates.
        labels_P: Which is right.
        prior_C: That was taken off (`prior_of` prompts with shuffled candidates, or 0).
        num_users: See `Fusion`.
        step: See `Fusion`.
        shuffles: See `Fusion`.
        title_weight: That is in `first_stage_PC`.
    """
    prior = tuple(float(one) for one in prior_C)
    deviation = deviation_of(first_stage_PC)
    without = Fusion(0.0, 1.0, deviation, prior, len(labels_P), num_users, step, 0.0, shuffles, title_weight)
    if not len(labels_P) or not np.isfinite(corrected_PC).all():
        return without
    letters = weigh(corrected_PC, first_stage_PC, labels_P)
    if not letters.counts:
        return replace(without, gain=letters.gain)
    # The order does not depend on the size of the weights; in units of the letters' there is one number to read.
    alpha = max(letters.known, 0.0) / letters.new * deviation
    return replace(without, letters=1.0, alpha=alpha, gain=letters.gain)


def prior_of(logits_PC: NDArray[Any]) -> NDArray[np.float64]:
    """[C] mean log-probability of each letter, as a distribution; all equal where that cannot be said."""
    if not len(logits_PC) or not np.isfinite(logits_PC).all():
        return np.full(logits_PC.shape[1], -np.log(logits_PC.shape[1]))
    prior_C: NDArray[np.float64] = log_softmax(log_softmax(logits_PC).mean(axis=0)[None])[0]
    return prior_C


# ---- The file ----


def read_fusion(folder: Path) -> Fusion | None:
    """What lies beside an adapter; None where there is nothing.

    Raises:
        ArtifactError: it cannot be read.
    """
    path = folder / FUSION_FILE
    if not path.is_file():
        return None
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Fusion.from_stored(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: cannot be read",
            expected="what training wrote: letters, alpha, deviation, letter_prior, ...",
            found=str(error),
            hint="resume the run from its newest checkpoint; it is written again with the next best adapter",
        ) from error
