"""The fusion of letters and first stage, fitted on a model's answers.

P prompts, C candidates
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llamarec.evaluation.fusion import Fusion, fit_fusion, prior_of
from llamarec.evaluation.logit import log_softmax
from llamarec.ranker.prompts.evaluation_samples import EvaluationSamples


def fusion_of(logits_PC: NDArray[np.float32], samples: EvaluationSamples, *, step: int) -> Fusion:
    """Fusion fitted on answers in one order of the candidates.

    Args:
        logits_PC: Logits of the letters of `samples`.
        samples: Validation prompts.
        step: Training step of the model.
    """
    prior_C = prior_of(logits_PC) if samples.order == "shuffled" else np.zeros(logits_PC.shape[1])
    return fusion_of_corrected(log_softmax(logits_PC) - prior_C, samples, prior_C, step=step)


def fusion_of_corrected(
    corrected_PC: NDArray[np.float64],
    samples: EvaluationSamples,
    prior_C: NDArray[np.float64],
    *,
    step: int,
    shuffles: int = 1,
) -> Fusion:
    """Fusion fitted on log-probabilities of the letters, corrected for their prior.

    Args:
        corrected_PC: Corrected log-probabilities of the candidates of `samples`.
        samples: Validation prompts.
        prior_C: Prior that was subtracted.
        step: Training step of the model.
        shuffles: Number of shuffles that the log-probabilities average.
    """
    return fit_fusion(
        corrected_PC,
        samples.first_stage_PC,
        samples.labels_P,
        prior_C=prior_C,
        num_users=len(samples.user_ids),
        step=step,
        shuffles=shuffles,
        title_weight=samples.first_stage.title_weight,
    )
