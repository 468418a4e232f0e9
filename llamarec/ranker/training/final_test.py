"""The final test: ranks of the test users by retriever, letters and final score, and the effect of the order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.data.parquet import write_parquet
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.candidate_orders import OrderedPrompts, OrderReport, mean_in_retriever_order, order_report
from llamarec.evaluation.comparison import compare_ranks
from llamarec.evaluation.fusion import Fusion, prior_of
from llamarec.evaluation.logit import log_softmax
from llamarec.evaluation.metrics import in_retriever_order
from llamarec.evaluation.outcome import Outcome
from llamarec.files import replacing
from llamarec.ranker.prompts.evaluation_samples import EvaluationSamples, Order
from llamarec.ranker.training.fusion_fit import fusion_of_corrected
from llamarec.ranker.training.trainer import RankerTrainer
from llamarec.vocabulary import (
    CANDIDATE_IDS,
    FINAL_RANK,
    FINAL_SCORES,
    FIRST_STAGE_RANK,
    LABEL_ID,
    LETTER_LOGP,
    LETTERS_RANK,
    RETRIEVER_RANK,
    SCORES,
    TITLE_SIMILARITY,
    USER,
    USER_ID,
)

TESTED_ORDERS: Final[tuple[tuple[str, Order, int], ...]] = (
    ("retriever's", "retriever", 0),
    ("reversed", "reversed", 0),
    ("shuffled 1", "shuffled", 0),
    ("shuffled 2", "shuffled", 1),
    ("shuffled 3", "shuffled", 2),
)


@dataclass(frozen=True)
class Answers:
    """A ranker's answers to prompts.

    Attributes:
        samples: The prompts.
        letters_PC: Log-probabilities of the letters, corrected for their prior.
        fusion: Weights of the final scores.
    """

    samples: EvaluationSamples
    letters_PC: NDArray[np.float64]
    fusion: Fusion

    @property
    def final_scores(self) -> NDArray[np.float64]:
        """[P, C] final scores."""
        return self.fusion.combined(self.letters_PC, self.samples.first_stage_PC)

    @property
    def first_stage_ranks(self) -> NDArray[np.int64]:
        """[num_users] ranks without the language model."""
        return self.samples.ranks_by(self.samples.first_stage_PC)

    @property
    def letters_ranks(self) -> NDArray[np.int64]:
        """[num_users] ranks by letters alone."""
        return self.samples.ranks_by(self.letters_PC)

    @property
    def final_ranks(self) -> NDArray[np.int64]:
        """[num_users] ranks by final score."""
        return self.samples.ranks_by(self.final_scores)


def answer_prompts(trainer: RankerTrainer, samples: EvaluationSamples, shuffles: int = 1) -> Answers:
    """Answers of the Trainer's present adapter, with the fusion that belongs to it.

    Args:
        trainer: Trainer of the run.
        samples: Prompts.
        shuffles: Shuffles of each prompt's candidates that are averaged; the fusion is then fitted on such means.
    """
    if shuffles == 1:
        fusion = trainer.fusion()
        return Answers(samples, fusion.corrected(trainer.predict_letters(samples)), fusion)

    fusion_samples = trainer.fusion_samples
    of_validation = _in_shuffles(trainer, fusion_samples, shuffles, trainer.fusion_logits())
    prior_C = prior_of(np.concatenate([one.logits_PC for one in of_validation]))
    mean_PC = _mean(of_validation, fusion_samples, prior_C)
    fusion = fusion_of_corrected(mean_PC, fusion_samples, prior_C, step=trainer.tested_step, shuffles=shuffles)

    of_test = _in_shuffles(trainer, samples, shuffles, trainer.predict_letters(samples))
    return Answers(samples, _mean(of_test, samples, prior_C), fusion)


def _in_shuffles(
    trainer: RankerTrainer, samples: EvaluationSamples, shuffles: int, first_PC: NDArray[np.float32]
) -> list[OrderedPrompts]:
    """Answers in several shuffles; the logits of the first, which is that of `samples`, are given."""
    others = [samples.reordered("shuffled", draw) for draw in range(1, shuffles)]
    asked = [
        _by_user(one, trainer.predict_letters(one), f"shuffled {draw}") for draw, one in enumerate(others, start=2)
    ]
    return [_by_user(samples, first_PC, "shuffled 1"), *asked]


def _by_user(samples: EvaluationSamples, logits_PC: NDArray[np.float32], name: str) -> OrderedPrompts:
    # Prompts are sorted by length, which may depend on the order; sorted by user they correspond.
    by_user = np.argsort(samples.rows)
    return OrderedPrompts(
        name,
        logits_PC[by_user],
        samples.first_stage_PC[by_user],
        samples.positions_PC[by_user],
        samples.labels_P[by_user],
    )


def _mean(asked: list[OrderedPrompts], samples: EvaluationSamples, prior_C: NDArray[np.float64]) -> NDArray[np.float64]:
    """[P, C] mean of each item's corrected log-probabilities, in the order of `samples` and its letters."""
    by_user_PC = mean_in_retriever_order(asked, lambda one: log_softmax(one.logits_PC) - prior_C)
    mean_PC = np.empty_like(by_user_PC)
    mean_PC[np.argsort(samples.rows)] = by_user_PC
    return np.take_along_axis(mean_PC, samples.positions_PC, axis=1)


def assess(answers: Answers, orders: OrderReport | None) -> Outcome:
    """Metrics of a test.

    Args:
        answers: Answers to the test prompts.
        orders: Result of `answer_in_orders`.
    """
    retriever = answers.samples.retriever_ranks
    return Outcome(
        compare_ranks(retriever, answers.final_ranks),
        compare_ranks(retriever, answers.letters_ranks),
        answers.fusion,
        orders,
        compare_ranks(retriever, answers.first_stage_ranks),
        compare_ranks(answers.first_stage_ranks, answers.final_ranks),
    )


def answer_in_orders(trainer: RankerTrainer, samples: EvaluationSamples, num_prompts: int) -> OrderReport | None:
    """Effect of the candidates' order on some prompts; None if `num_prompts` is 0."""
    if not num_prompts:
        return None
    reordered = [samples.reordered(order, draw, max_prompts=num_prompts) for _, order, draw in TESTED_ORDERS]
    asked = [
        _by_user(one, trainer.predict_letters(one), name)
        for (name, _, _), one in zip(TESTED_ORDERS, reordered, strict=True)
    ]
    return order_report(asked, trainer.fusion())


def write_test(path: Path, answers: Answers, data: PreparedData) -> None:
    """Writes the ranks of every test user, and the candidates of users with a prompt, the retriever's best first."""
    samples = answers.samples
    by_row = np.argsort(samples.rows)
    lists = {
        CANDIDATE_IDS: samples.candidates_PC,
        SCORES: samples.scores_PC,
        TITLE_SIMILARITY: samples.similarities_PC.astype(np.float32),
        LETTER_LOGP: log_softmax(answers.letters_PC).astype(np.float32),
        FINAL_SCORES: answers.final_scores.astype(np.float32),
    }
    asked = pl.DataFrame(
        {"row": samples.rows[by_row].astype(np.uint32)}
        | {name: in_retriever_order(values, samples.positions_PC)[by_row] for name, values in lists.items()}
    ).with_columns(pl.col(name).arr.to_list() for name in lists)
    users = samples.user_ids
    everybody = pl.DataFrame(
        {
            USER_ID: users,
            USER: [data.users[int(user)] for user in users],
            LABEL_ID: np.array([data.sequences.label(int(user), "test") for user in users], dtype=np.int32),
            RETRIEVER_RANK: samples.retriever_ranks.astype(np.int32),
            FIRST_STAGE_RANK: answers.first_stage_ranks.astype(np.int32),
            LETTERS_RANK: answers.letters_ranks.astype(np.int32),
            FINAL_RANK: answers.final_ranks.astype(np.int32),
        }
    ).with_row_index("row")
    users_and_lists = everybody.join(asked, on="row", how="left", maintain_order="left").drop("row")
    with replacing(path) as staging:
        write_parquet(users_and_lists, staging)
