"""Asking in shuffles: what a mean over shuffles is, with a trainer whose opinion of every item is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.evaluation.fusion import Fusion
from llamarec.evaluation.logit import log_softmax
from llamarec.evaluation.metrics import ndcg_at, score_ranks
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.evaluation_samples import EvaluationSamples
from llamarec.ranker.training.final_test import answer_in_orders, answer_prompts, assess
from llamarec.ranker.training.fusion_fit import fusion_of
from tests.samples import make_candidates


class _KnownTrainer:
    """In the place of RankerTrainer: logits are an opinion of the items, a liking for letters, and noise by order."""

    def __init__(self, validation: EvaluationSamples, num_items: int, liking: float, noise: float) -> None:
        rng = np.random.default_rng(0)
        self.fusion_samples, self.tested_step, self._noise, self.asked = validation, 1, noise, 0
        self._opinion_N = rng.normal(size=num_items + 1)
        self._liking_C = liking * np.linspace(1, -1, 20)

    def predict_letters(self, samples: EvaluationSamples) -> NDArray[np.float32]:
        self.asked += len(samples)
        # The same prompt gets the same noise, whenever it is asked.
        noise = np.array(
            [np.random.default_rng(items).normal(size=20) for items in samples.candidates_PC.astype(np.uint32)]
        )
        logits = self._opinion_N[samples.candidates_PC] + self._liking_C + self._noise * noise
        return np.asarray(logits, dtype=np.float32)

    def fusion_logits(self) -> NDArray[np.float32]:
        return self.predict_letters(self.fusion_samples)

    def fusion(self) -> Fusion:
        return fusion_of(self.fusion_logits(), self.fusion_samples, step=self.tested_step)


def _trainer(data: PreparedData, encoder: PromptEncoder, *, liking: float = 0.0, noise: float = 0.0) -> Any:
    validation = EvaluationSamples(data, make_candidates(data)["validation"], encoder, "validation", max_users=0)
    return _KnownTrainer(validation, data.num_items, liking, noise)


@pytest.fixture(name="test_samples")
def _test_samples(data: PreparedData, encoder: PromptEncoder) -> EvaluationSamples:
    return EvaluationSamples(data, make_candidates(data)["test"], encoder, "test", max_users=0)


def _corrected(answers: Any) -> NDArray[np.float64]:
    return log_softmax(answers.letters_PC)


def test_where_order_does_not_matter_a_mean_is_what_one_shuffle_says(
    data: PreparedData, encoder: PromptEncoder, test_samples: EvaluationSamples
) -> None:
    trainer = _trainer(data, encoder)
    opinion = log_softmax(trainer.predict_letters(test_samples))
    answers = answer_prompts(trainer, test_samples, 4)
    # What the prior of a few dozen prompts is off by is the same for all letters of a place in the mean.
    assert np.corrcoef(_corrected(answers).ravel(), opinion.ravel())[0, 1] > 0.98
    assert answers.fusion.shuffles == 4


def test_a_mean_is_nearer_to_the_opinion_than_one_shuffle(
    data: PreparedData, encoder: PromptEncoder, test_samples: EvaluationSamples
) -> None:
    quiet = _trainer(data, encoder)
    opinion = log_softmax(quiet.predict_letters(test_samples))
    errors = []
    for shuffles in (1, 8):
        trainer = _trainer(data, encoder, liking=2.0, noise=1.0)
        answers = answer_prompts(trainer, test_samples, shuffles)
        assert trainer.asked == shuffles * (len(test_samples) + len(trainer.fusion_samples))
        errors.append(float(np.abs(_corrected(answers) - opinion).mean()))
    assert errors[1] < 0.6 * errors[0]


def test_figures_are_of_the_answers(
    data: PreparedData, encoder: PromptEncoder, test_samples: EvaluationSamples
) -> None:
    trainer = _trainer(data, encoder, liking=1.0)
    answers = answer_prompts(trainer, test_samples)
    outcome = assess(answers, answer_in_orders(trainer, test_samples, 10))
    assert outcome.comparison.num_covered == len(test_samples)
    assert outcome.orders is not None
    assert outcome.orders.num_prompts == 10
    assert outcome.fusion == answers.fusion
    assert answer_in_orders(trainer, test_samples, 0) is None
    # A shuffle that is asked again says the same.
    shuffled = next(row for row in outcome.orders.rows if row.order == "shuffled 1")
    part = test_samples.reordered("shuffled", max_prompts=10)
    assert shuffled.letters == pytest.approx(ndcg_at(score_ranks(trainer.predict_letters(part), part.labels_P), 10))
