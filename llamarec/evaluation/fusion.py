"""The final score of a candidate: what its letter got, corrected for the letter, and what the retriever gave it.

    score = log p(letter) - prior(letter) + alpha * z(retriever score)

z is the retriever's score, less its mean in the prompt, in units of its deviation over all validation prompts: where
the retriever is sure its scores lie further apart, and in the sum they should. The prior is the mean log-probability of
each letter over validation prompts whose candidates were shuffled, where every letter is as likely to be right as any
other (a model's liking for letters as such: PriDe, Zheng et al. 2024, arXiv 2309.03882, section 4). alpha comes from a
conditional logit (McFadden 1974) on the same prompts. Where log p does not add to the likelihood of prompts that the
fit has not seen (cross-validation, by more than a standard error), it gets no weight: the order is the retriever's.

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

FUSION_FILE: Final = "fusion.json"
_FOLDS: Final = 5
_RIDGE: Final = 1.0
"""Of the two weights of standardised features: a handful of prompts outweighs it, and without any they are 0."""
_STEPS: Final = 50
_SMALL: Final = 1e-9

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Fusion:
    """How letters and retriever become one score.

    Attributes:
        letters: Weight of the letters' corrected log-probabilities: 1, or 0 where they add nothing.
        alpha: Weight of the standardised retriever scores.
        deviation: Of the retriever's scores within a prompt, over the validation prompts.
        letter_prior: [C] log-probability that is taken off each letter; all 0 where it was not calibrated.
        num_prompts: Validation prompts that it was fitted on.
        num_users: Validation users, those without a prompt included.
        step: Of the adapter.
        gain: Log-likelihood per prompt that the letters added on prompts not fitted on, in nats.
        shuffles: Of each prompt's candidates that the letters' log-probabilities are a mean over.
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

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> Fusion:
        """From what JSON has kept of one: fusion.json, or `fusion` in metrics.json."""
        return cls(**{**content, "letter_prior": tuple(float(one) for one in content["letter_prior"])})

    def corrected(self, logits_PC: NDArray[Any]) -> Matrix:
        """[P, C] log-probabilities of the letters less their prior."""
        corrected_PC: Matrix = log_softmax(logits_PC) - np.array(self.letter_prior)
        return corrected_PC

    def combined(self, corrected_PC: Matrix, retriever_PC: NDArray[Any]) -> Matrix:
        """[P, C] final scores from corrected log-probabilities; no number where one of those is none and counts."""
        scores_PC = self.alpha * standardised(retriever_PC, self.deviation)
        return scores_PC + self.letters * corrected_PC if self.letters else scores_PC

    def scores(self, logits_PC: NDArray[Any], retriever_PC: NDArray[Any]) -> Matrix:
        """[P, C] final scores from logits."""
        return self.combined(self.corrected(logits_PC), retriever_PC)

    def as_bytes(self) -> bytes:
        """The content of fusion.json."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def fit_fusion(
    corrected_PC: Matrix,
    retriever_PC: NDArray[Any],
    labels_P: NDArray[np.int64],
    *,
    prior_C: NDArray[np.float64],
    num_users: int = 0,
    step: int = 0,
    shuffles: int = 1,
) -> Fusion:
    """Fits the weights on validation prompts.

    Args:
        corrected_PC: The letters' log-probabilities, less their prior.
        retriever_PC: Scores of the same candidates.
        labels_P: Which is right.
        prior_C: That was taken off (`prior_of` prompts with shuffled candidates, or 0).
        num_users: See `Fusion`.
        step: See `Fusion`.
        shuffles: See `Fusion`.
    """
    prior = tuple(float(one) for one in prior_C)
    deviation = deviation_of(retriever_PC)
    without = Fusion(0.0, 1.0, deviation, prior, len(labels_P), num_users, step, 0.0, shuffles)
    if not len(labels_P) or not np.isfinite(corrected_PC).all():
        return without
    # Both in units of their own deviation: the penalty must not depend on how boldly the model speaks.
    spread = deviation_of(corrected_PC)
    features = [standardised(corrected_PC, spread), standardised(retriever_PC, deviation)]
    features_PCF = np.stack(features, axis=2)
    weights, gains_P = _conditional_logit(features_PCF, labels_P), _gains(features_PCF, labels_P)
    gain, error = float(gains_P.mean()), float(gains_P.std() / np.sqrt(len(gains_P)))
    # By one standard error, as for any model that is to be preferred to a simpler one (Breiman et al. 1984, 3.4.3).
    if weights[0] <= 0 or gain <= error:
        return replace(without, gain=gain)
    # The order does not depend on the size of the weights; in units of the letters' there is one number to read.
    alpha = float(max(weights[1], 0.0) / weights[0]) * spread
    return replace(without, letters=1.0, alpha=alpha, gain=gain)


def prior_of(logits_PC: NDArray[Any]) -> NDArray[np.float64]:
    """[C] mean log-probability of each letter, as a distribution; all equal where that cannot be said."""
    if not len(logits_PC) or not np.isfinite(logits_PC).all():
        return np.full(logits_PC.shape[1], -np.log(logits_PC.shape[1]))
    prior_C: NDArray[np.float64] = log_softmax(log_softmax(logits_PC).mean(axis=0)[None])[0]
    return prior_C


def log_softmax(scores_PC: NDArray[Any]) -> Matrix:
    """Over the candidates."""
    scores = scores_PC.astype(np.float64)
    # Of an infinite score nothing but "not a number" can be said.
    with np.errstate(invalid="ignore"):
        shifted = scores - scores.max(axis=1, keepdims=True)
        result: Matrix = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def standardised(scores_PC: NDArray[Any], deviation: float) -> Matrix:
    """Less the mean of each row, in units of a deviation."""
    scores = scores_PC.astype(np.float64)
    result: Matrix = (scores - scores.mean(axis=1, keepdims=True)) / deviation
    return result


def deviation_of(scores_PC: NDArray[Any]) -> float:
    """Of scores from the means of their rows, over all rows; 1 where there is none."""
    scores = scores_PC.astype(np.float64)
    deviation = float((scores - scores.mean(axis=1, keepdims=True)).std()) if scores.size else 0.0
    return deviation if deviation > 0 else 1.0


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


# ---- The fit ----


def _gains(features_PCF: Matrix, labels_P: NDArray[np.int64]) -> NDArray[np.float64]:
    """[P] what the first feature adds to the log-likelihood of each prompt, fitted on the others' folds."""
    folds_P = np.arange(len(labels_P)) % _FOLDS
    gains_P = np.zeros(len(labels_P))
    for fold in range(min(_FOLDS, len(labels_P))):
        fitted, held_out = folds_P != fold, folds_P == fold
        for features, sign in ((features_PCF, 1.0), (features_PCF[:, :, 1:], -1.0)):
            weights = _conditional_logit(features[fitted], labels_P[fitted])
            gains_P[held_out] += sign * _log_likelihoods(features[held_out], labels_P[held_out], weights)
    return gains_P


def _conditional_logit(features_PCF: Matrix, labels_P: NDArray[np.int64]) -> NDArray[np.float64]:
    """[F] weights with the greatest penalised likelihood, by Newton's method; the problem is concave."""
    weights = np.zeros(features_PCF.shape[2])
    value = _penalised(features_PCF, labels_P, weights)
    for _ in range(_STEPS):
        step = _newton_step(features_PCF, labels_P, weights)
        # Where probabilities are saturated a whole step can overshoot.
        while np.abs(step).max() > _SMALL:
            found = _penalised(features_PCF, labels_P, weights + step)
            if found >= value:
                break
            step = step / 2
        if np.abs(step).max() <= _SMALL:
            break
        weights, value = weights + step, found
    return weights


def _newton_step(
    features_PCF: Matrix, labels_P: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    p_PC = np.exp(log_softmax(features_PCF @ weights))
    means_PF = np.einsum("pc,pcf->pf", p_PC, features_PCF)
    of_labels_PF = features_PCF[np.arange(len(labels_P)), labels_P]
    gradient = (of_labels_PF - means_PF).sum(axis=0) - _RIDGE * weights
    squares = np.einsum("pc,pcf,pcg->fg", p_PC, features_PCF, features_PCF) - means_PF.T @ means_PF
    step: NDArray[np.float64] = np.linalg.solve(squares + _RIDGE * np.eye(len(weights)), gradient)
    return step


def _penalised(features_PCF: Matrix, labels_P: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    likelihood = float(_log_likelihoods(features_PCF, labels_P, weights).sum())
    return likelihood - 0.5 * _RIDGE * float(weights @ weights)


def _log_likelihoods(
    features_PCF: Matrix, labels_P: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    result: NDArray[np.float64] = log_softmax(features_PCF @ weights)[np.arange(len(labels_P)), labels_P]
    return result
