"""Weights of some evidence on which of several candidates is taken: a conditional logit, and what evidence adds.

P prompts, C candidates, F kinds of evidence ("features")
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_FOLDS: Final = 5
_RIDGE: Final = 1.0
"""Of the weights of standardised features: a handful of prompts outweighs it, and without any they are 0."""
_STEPS: Final = 50
_SMALL: Final = 1e-9

Matrix = NDArray[np.float64]


class Evidence(NamedTuple):
    """What some scores say beside others.

    new: their weight, and known: that of the others, each for a unit of the raw scores. gain: what the new ones add to
    the log-likelihood of a prompt that the fit has not seen, in nats. counts: they add more than a standard error.
    is_contrary: they do, but with a negative weight.
    """

    new: float
    known: float
    gain: float
    counts: bool
    is_contrary: bool = False


def weigh(new_PC: NDArray[Any], known_PC: NDArray[Any], labels_P: NDArray[np.int64]) -> Evidence:
    """Fits both on prompts whose answer is known.

    Args:
        new_PC: Finite scores of the candidates.
        known_PC: Others of the same.
        labels_P: Which was taken; one prompt at least.
    """
    # Both in units of their own deviation: the penalty must not depend on how boldly a model speaks.
    units = deviation_of(new_PC), deviation_of(known_PC)
    features = [standardised(scores_PC, unit) for scores_PC, unit in zip((new_PC, known_PC), units, strict=True)]
    features_PCF = np.stack(features, axis=2)
    weights, gains_P = _conditional_logit(features_PCF, labels_P), _gains(features_PCF, labels_P)
    gain, error = float(gains_P.mean()), float(gains_P.std() / np.sqrt(len(gains_P)))
    # By one standard error, as for any model that is to be preferred to a simpler one (Breiman et al. 1984, 3.4.3).
    is_told = gain > error
    new, known = float(weights[0] / units[0]), float(weights[1] / units[1])
    return Evidence(new, known, gain, is_told and new > 0, is_told and new < 0)


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
