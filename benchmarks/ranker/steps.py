"""From what adapters said to the figures of an ablation: the final order, one choice of the recipe after the other.

Everything that is fitted (the letters' prior, the weights) is fitted on validation users, everything that is said is of
test users. The same users throughout, so that all differences are paired.

    P prompts, C candidates, U users
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.ranker.answers import Answers
from llamarec.evaluation.comparison import mean_with_interval
from llamarec.evaluation.fusion import fit_fusion, prior_of
from llamarec.evaluation.logit import log_softmax, weigh
from llamarec.evaluation.metrics import ndcg_values
from llamarec.ranker.prompts.evaluation_samples import Order

Score = Literal["spaced", "letters", "calibrated", "fused", "titles", "all"]
"""What orders the candidates: letters as the published code reads them, as they are trained, less their prior, beside
the retriever, or without the letters retriever and titles, and all of it."""


class Training(NamedTuple):
    """An adapter of the ablation.

    Attributes:
        flags: Of train_ranker.py.
        has_published_loss: Over the whole vocabulary.
    """

    flags: str
    has_published_loss: bool = False


TRAININGS: Final[dict[str, Training]] = {
    "published": Training("--hard_negatives 0", has_published_loss=True),
    "uniform": Training("--hard_negatives 0"),
    "mixed": Training("--hard_negatives 0.5 --hard_negatives_at all"),
    "hard": Training("--hard_negatives 1 --hard_negatives_at all"),
    "proposed": Training("--hard_negatives 0.5 --hard_negatives_at proposed"),
    "proposed_hard": Training("--hard_negatives 1 --hard_negatives_at proposed"),
    "latest": Training("--hard_negatives 0 --max_train_prompts 20000 --latest_prompts true"),
}


class Step(NamedTuple):
    """A row of the ablation: one choice more becomes ours.

    Attributes:
        name: What is new.
        training: Whose adapter.
        order: Of the candidates at evaluation.
        score: Of the final order.
    """

    name: str
    training: str
    order: Order
    score: Score


STEPS: Final = (
    Step("published recipe", "published", "retriever", "spaced"),
    Step("right letter ids", "published", "retriever", "letters"),
    Step("loss over the letters", "uniform", "retriever", "letters"),
    Step("candidates shuffled at evaluation", "uniform", "shuffled", "letters"),
    Step("letters less their prior", "uniform", "shuffled", "calibrated"),
    Step("hard negatives beside a proposed label", "proposed_hard", "shuffled", "calibrated"),
    Step("fused with the retriever", "proposed_hard", "shuffled", "fused"),
    Step("and with titles", "proposed_hard", "shuffled", "all"),
)


class Interval(NamedTuple):
    """A mean over users with its 95% interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


@dataclass(frozen=True)
class AdapterAnswers:
    """One adapter's answers in one order of the candidates; those to validation users where something is fitted."""

    test: Answers
    validation: Answers | None = None

    def ranks(self, score: Score) -> NDArray[np.int64]:
        """[U] of the test users' labels."""
        if score in ("spaced", "letters"):
            return self.test.ranks_by(self.test.spaced_PC if score == "spaced" else self.test.letters_PC)
        if score == "titles":
            return self.test.ranks_by(self.test.first_stage_PC)
        validation, test = self._corrected()
        if score == "calibrated":
            return self.test.ranks_by(test)
        fusion = fit_fusion(
            validation, _first_stage(self._validated, score), self._validated.labels_P, prior_C=self._prior()
        )
        return self.test.ranks_by(fusion.combined(test, _first_stage(self.test, score)))

    def gain(self, score: Literal["fused", "all"]) -> tuple[float, bool]:
        """What the letters add on validation users that were not fitted on, in nats a prompt, and whether it counts."""
        validation, _ = self._corrected()
        found = weigh(validation, _first_stage(self._validated, score), self._validated.labels_P)
        return found.gain, found.counts

    def nats(self) -> NDArray[np.float64]:
        """[P], by user: log-likelihood of the letters alone above chance, their scale fitted on validation users."""
        validation, test = self._corrected()
        scale = weigh(validation, np.zeros_like(validation), self._validated.labels_P).new
        log_p_PC = log_softmax(scale * test)
        right_P = np.take_along_axis(log_p_PC, self.test.labels_P[:, None], axis=1)[:, 0]
        return self.test.by_user(right_P + np.log(log_p_PC.shape[1]))

    @property
    def _validated(self) -> Answers:
        if self.validation is None:
            raise ValueError("nothing can be fitted without validation users")
        return self.validation

    def _prior(self) -> NDArray[np.float64]:
        return prior_of(self._validated.letters_PC)

    def _corrected(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of validation and test."""
        prior_C = self._prior()
        return log_softmax(self._validated.letters_PC) - prior_C, log_softmax(self.test.letters_PC) - prior_C


def _first_stage(answers: Answers, score: Score) -> NDArray[np.float64]:
    return answers.scores_PC if score == "fused" else answers.first_stage_PC


def ndcg_of_covered(ranks_U: NDArray[np.int64], retriever_ranks_U: NDArray[np.int64]) -> NDArray[np.float64]:
    """[P] NDCG@10 of the users whose label is among the candidates, in their order."""
    return ndcg_values(ranks_U[retriever_ranks_U > 0], 10)


def interval(values_P: NDArray[np.float64]) -> Interval:
    """Of a mean over users (bootstrap)."""
    return Interval(*mean_with_interval(values_P))
