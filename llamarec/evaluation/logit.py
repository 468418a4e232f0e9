"""Conditional logit: weights of evidence for the candidate that is taken, and what one kind of evidence adds.

P prompts, C candidates, F kinds of evidence ("features")
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_FOLDS: Final = 5
_RIDGE: Final = 1.0
"""Penalty on the weights of standardised features. A few prompts outweigh it; without any the weights are 0."""
_STEPS: Final = 50
_SMALL: Final = 1e-9

Matrix = NDArray[np.float64]
Scores = NDArray[np.floating]


class Evidence(NamedTuple):
    """What new scores add to known ones.

    new, known: weights per unit of the raw scores. gain: log-likelihood that the new scores add to a held-out prompt,
    in nats. error: its standard error. counts: the gain exceeds it, and the weight is positive. is_contrary: it does,
    but the weight is negative.
    """

    new: float
    known: float
    gain: float
    counts: bool
    is_contrary: bool = False
    error: float = 0.0


def weigh(new_PC: Scores, known_PC: Scores, labels_P: NDArray[np.int64]) -> Evidence:
    """Fits the weights of both scores on prompts with labels.

    Args:
        new_PC: Finite scores of the candidates.
        known_PC: Other scores of the same candidates.
        labels_P: Index of the candidate taken; one prompt at least.
    """
    # Both in units of their own deviation, so that the penalty does not depend on a model's scale.
    units = deviation_of(new_PC), deviation_of(known_PC)
    features = [standardised(scores_PC, unit) for scores_PC, unit in zip((new_PC, known_PC), units, strict=True)]
    features_PCF = np.stack(features, axis=2)

    weights = conditional_logit(features_PCF, labels_P)
    gain, error = held_out_gain(features_PCF, labels_P)
    # One standard error, the usual margin over a simpler model (Breiman et al. 1984, section 3.4.3).
    is_clear = gain > error
    new, known = float(weights[0] / units[0]), float(weights[1] / units[1])
    return Evidence(new, known, gain, is_clear and new > 0, is_clear and new < 0, error)


def log_softmax(scores_PC: Scores) -> Matrix:
    """Log-probabilities over the candidates."""
    scores = scores_PC.astype(np.float64)
    # An infinite score gives NaN, without a warning.
    with np.errstate(invalid="ignore"):
        shifted = scores - scores.max(axis=1, keepdims=True)
        result: Matrix = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def standardised(scores_PC: Scores, deviation: float) -> Matrix:
    """Scores minus the mean of their row, in units of a deviation."""
    scores = scores_PC.astype(np.float64)
    result: Matrix = (scores - scores.mean(axis=1, keepdims=True)) / deviation
    return result


def deviation_of(scores_PC: Scores) -> float:
    """Standard deviation of scores from the means of their rows, over all rows; 1 where it is 0."""
    scores = scores_PC.astype(np.float64)
    deviation = float((scores - scores.mean(axis=1, keepdims=True)).std()) if scores.size else 0.0
    return deviation if deviation > 0 else 1.0


def held_out_gain(features_PCF: Matrix, labels_P: NDArray[np.int64]) -> tuple[float, float]:
    """Log-likelihood that the first feature adds to a prompt outside the fit, and its standard error, in nats.

    Args:
        features_PCF: Standardised evidence; with one kind alone, it is compared with equal probabilities.
        labels_P: Index of the candidate taken; one prompt at least.
    """
    gains_P = _gains(features_PCF, labels_P)
    return float(gains_P.mean()), float(gains_P.std() / np.sqrt(len(gains_P)))


def _gains(features_PCF: Matrix, labels_P: NDArray[np.int64]) -> NDArray[np.float64]:
    """[P] log-likelihood that the first feature adds to each prompt, fitted on the other folds."""
    folds_P = np.arange(len(labels_P)) % _FOLDS
    gains_P = np.zeros(len(labels_P))

    for fold in range(min(_FOLDS, len(labels_P))):
        fitted, held_out = folds_P != fold, folds_P == fold
        for features, sign in ((features_PCF, 1.0), (features_PCF[:, :, 1:], -1.0)):
            weights = conditional_logit(features[fitted], labels_P[fitted])
            gains_P[held_out] += sign * log_likelihoods(features[held_out], labels_P[held_out], weights)
    return gains_P


def conditional_logit(features_PCF: Matrix, labels_P: NDArray[np.int64]) -> NDArray[np.float64]:
    """[F] weights that maximise the penalised likelihood, by Newton's method; the problem is concave.

    Args:
        features_PCF: Standardised evidence.
        labels_P: Index of the candidate taken.
    """
    weights = np.zeros(features_PCF.shape[2])
    if not len(weights):
        return weights
    value = _penalised(features_PCF, labels_P, weights)

    for _ in range(_STEPS):
        step = _newton_step(features_PCF, labels_P, weights)
        found = _penalised(features_PCF, labels_P, weights + step)
        # A full step can overshoot where probabilities are saturated.
        while not found >= value and np.abs(step).max() > _SMALL:
            step = step / 2
            found = _penalised(features_PCF, labels_P, weights + step)

        # Likewise where a score is not finite, and the step is NaN.
        if not np.abs(step).max() > _SMALL:
            break
        weights, value = weights + step, found

    return weights


def _newton_step(
    features_PCF: Matrix, labels_P: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    p_PC = np.exp(log_softmax(features_PCF @ weights))
    weighted_PCF = p_PC[:, :, None] * features_PCF
    means_PF = weighted_PCF.sum(axis=1)
    labels_PF = features_PCF[np.arange(len(labels_P)), labels_P]
    gradient = (labels_PF - means_PF).sum(axis=0) - _RIDGE * weights
    num_features = len(weights)
    squares = weighted_PCF.reshape(-1, num_features).T @ features_PCF.reshape(-1, num_features) - means_PF.T @ means_PF
    step: NDArray[np.float64] = np.linalg.solve(squares + _RIDGE * np.eye(len(weights)), gradient)
    return step


def _penalised(features_PCF: Matrix, labels_P: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    likelihood = float(log_likelihoods(features_PCF, labels_P, weights).sum())
    return likelihood - 0.5 * _RIDGE * float(weights @ weights)


def log_likelihoods(
    features_PCF: Matrix, labels_P: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[P] log-probability of each label."""
    result: NDArray[np.float64] = log_softmax(features_PCF @ weights)[np.arange(len(labels_P)), labels_P]
    return result
