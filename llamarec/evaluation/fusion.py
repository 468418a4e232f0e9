"""The final score of a candidate, from the log-probability of its letter and the score of the first stage.

    score = log p(letter) - prior(letter) + alpha * z(first stage)
    first stage = retriever score + title_weight * title similarity

z is a score minus its mean in the prompt, in units of its deviation over all validation prompts, so the scores of a
confident first stage stay further apart. The prior is the mean log-probability of each letter over validation prompts
with shuffled candidates, where every letter is equally likely to be right; it removes a model's preference for letters
(PriDe, Zheng et al. 2024, arXiv 2309.03882, section 4). alpha comes from a conditional logit (McFadden 1974) on the
same prompts. Where log p does not raise the likelihood of held-out prompts by more than a standard error
(cross-validation), it gets no weight, and the order is the first stage's.

    P prompts, C candidates
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.errors import ArtifactError
from llamarec.evaluation.logit import Matrix, Scores, deviation_of, log_softmax, standardised, weigh

FUSION_FILE: Final = "fusion.json"


@dataclass(frozen=True)
class Fusion:
    """Weights that combine letters and first stage into one score; the content of fusion.json.

    Attributes:
        letters: Weight of the letters' corrected log-probabilities: 1, or 0 where they add nothing.
        alpha: Weight of the standardised scores of the first stage.
        deviation: Deviation of the first stage's scores within a prompt, over the validation prompts.
        letter_prior: [C] log-probability subtracted from each letter; all 0 where it was not calibrated.
        num_prompts: Validation prompts of the fit.
        num_users: Validation users, including those without a prompt.
        step: Step of the adapter.
        gain: Log-likelihood that the letters add to a held-out prompt, in nats.
        shuffles: Shuffles of each prompt's candidates that the letters' log-probabilities are averaged over.
        title_weight: Weight of the title similarity in the first stage, per unit of the retriever's score; 0 = unused.
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

    def corrected(self, logits_PC: Scores) -> Matrix:
        """[P, C] log-probabilities of the letters minus their prior."""
        corrected_PC: Matrix = log_softmax(logits_PC) - np.array(self.letter_prior)
        return corrected_PC

    def combined(self, corrected_PC: Matrix, first_stage_PC: Scores) -> Matrix:
        """[P, C] final scores from corrected log-probabilities; NaN where one of those is NaN and has weight."""
        scores_PC = self.alpha * standardised(first_stage_PC, self.deviation)
        return scores_PC + self.letters * corrected_PC if self.letters else scores_PC

    def scores(self, logits_PC: Scores, first_stage_PC: Scores) -> Matrix:
        """[P, C] final scores from logits."""
        return self.combined(self.corrected(logits_PC), first_stage_PC)

    def as_bytes(self) -> bytes:
        """Bytes of fusion.json."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def fit_fusion(
    corrected_PC: Matrix,
    first_stage_PC: Scores,
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
        corrected_PC: Log-probabilities of the letters minus their prior.
        first_stage_PC: First-stage scores of the same candidates.
        labels_P: Index of the label.
        prior_C: The prior that was subtracted: `prior_of` prompts with shuffled candidates, or 0.
        num_users: See `Fusion`.
        step: See `Fusion`.
        shuffles: See `Fusion`.
        title_weight: Weight of titles in `first_stage_PC`.
    """
    prior = tuple(float(one) for one in prior_C)
    deviation = deviation_of(first_stage_PC)
    without = Fusion(
        letters=0.0,
        alpha=1.0,
        deviation=deviation,
        letter_prior=prior,
        num_prompts=len(labels_P),
        num_users=num_users,
        step=step,
        shuffles=shuffles,
        title_weight=title_weight,
    )
    if not len(labels_P) or not (np.isfinite(corrected_PC).all() and np.isfinite(first_stage_PC).all()):
        return without

    letters = weigh(corrected_PC, first_stage_PC, labels_P)
    if not letters.counts:
        return replace(without, gain=letters.gain)

    # The order does not depend on the scale of the weights. With a weight of 1 for letters, alpha alone tells all.
    alpha = max(letters.known, 0.0) / letters.new * deviation
    return replace(without, letters=1.0, alpha=alpha, gain=letters.gain)


def prior_of(logits_PC: Scores) -> NDArray[np.float64]:
    """[C] mean log-probability of each letter, normalised; all equal where no prompt has finite logits."""
    if not len(logits_PC) or not np.isfinite(logits_PC).all():
        return np.full(logits_PC.shape[1], -np.log(logits_PC.shape[1]))
    prior_C: NDArray[np.float64] = log_softmax(log_softmax(logits_PC).mean(axis=0)[None])[0]
    return prior_C


# ---- The file ----


def read_fusion(folder: Path) -> Fusion | None:
    """The fusion saved beside an adapter; None where there is none.

    Raises:
        ArtifactError: the file cannot be read.
    """
    path = folder / FUSION_FILE
    if not path.is_file():
        return None

    try:
        return json_shapes.read(path, Fusion)
    except (OSError, ShapeError) as error:
        raise ArtifactError(
            f"{path}: cannot be read",
            expected="JSON with letters, alpha, deviation, letter_prior, ...",
            found=str(error),
            hint="resume the run from its newest checkpoint: the next best adapter comes with a new file",
        ) from error
