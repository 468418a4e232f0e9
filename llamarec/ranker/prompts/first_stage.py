"""What is known of candidates before the language model is asked: the retriever's score, and how alike titles are.

    score = retriever score + title_weight * title similarity

A retriever knows items by who took them; of rare ones it knows little, and their titles say more. The weight is fitted
on validation users as that of the letters is, and is 0 where the words do not add to the likelihood of users that the
fit has not seen (figures in docs/decisions/0009-ranker-quality.md).

    P prompts, C candidates
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.evaluation.logit import weigh
from llamarec.retriever.candidates import Candidates
from llamarec.retriever.title_words import TitleSimilarity

_MAX_PROMPTS: Final = 20_000
"""To fit one weight on; more would only take longer."""


@dataclass(frozen=True)
class FirstStage:
    """Scores of candidates without a language model.

    Attributes:
        similarity: Of titles; None: the retriever's scores as they are.
        title_weight: Of the similarity.
        gain: Log-likelihood a prompt that the titles added on users not fitted on, in nats.
        num_prompts: That it was fitted on.
        is_contrary: The likeliest weight is negative: who took one item takes one of another title next.
    """

    similarity: TitleSimilarity | None = None
    title_weight: float = 0.0
    gain: float = 0.0
    num_prompts: int = 0
    is_contrary: bool = False

    def similarities(self, history: NDArray[np.integer], candidates: NDArray[np.integer]) -> NDArray[np.float64]:
        """[C] of the candidates' titles; 0 where titles are not used."""
        if self.similarity is None or not self.title_weight:
            return np.zeros(len(candidates))
        return self.similarity(history, candidates)

    def scores(self, retriever: NDArray[np.floating], similarities: NDArray[np.float64]) -> NDArray[np.floating]:
        """What both come to: the shape of the arguments."""
        return retriever + self.title_weight * similarities if self.title_weight else retriever


def stored_first_stage(titles: list[str], title_weight: float) -> FirstStage:
    """Of a trained run, whose fusion says the weight."""
    return FirstStage(TitleSimilarity(titles), title_weight) if title_weight else FirstStage()


def fit_first_stage(data: PreparedData, validation: Candidates, num_candidates: int) -> FirstStage:
    """Fits the weight on all validation users whose label is among the candidates; no prompt is asked.

    Args:
        data: Prepared.
        validation: The retriever's candidates for the validation users.
        num_candidates: Of a prompt.
    """
    covered = np.flatnonzero((validation.label_ranks > 0) & (validation.label_ranks <= num_candidates))
    if len(covered) > _MAX_PROMPTS:
        covered = np.sort(np.random.default_rng(0).choice(covered, _MAX_PROMPTS, replace=False))
    if not len(covered):
        return FirstStage()
    similarity = TitleSimilarity(data.titles)
    items_PC = validation.item_ids[covered, :num_candidates]
    similarities_PC = np.array(
        [
            similarity(data.sequences.history(int(user), "validation"), items_C)
            for user, items_C in zip(validation.user_ids[covered], items_PC, strict=True)
        ]
    )
    labels_P = validation.label_ranks[covered].astype(np.int64) - 1
    titles = weigh(similarities_PC, validation.scores[covered, :num_candidates], labels_P)
    is_used = titles.counts and titles.known > 0
    weight = titles.new / titles.known if is_used else 0.0
    return FirstStage(similarity, weight, titles.gain, len(covered), is_contrary=titles.is_contrary)


def first_stage_text(first_stage: FirstStage) -> str:
    """Whether titles count, in one line."""
    measured = f"{first_stage.gain:+.3f} nats a user, {first_stage.num_prompts:,} validation users"
    if first_stage.is_contrary:
        return f"not used: here the next item is rather one of another title ({measured}, with a negative weight)"
    if not first_stage.title_weight:
        return f"not used: they add no more than a standard error to the retriever's score ({measured})"
    return f"retriever's score + {first_stage.title_weight:.2f} x similarity to the history ({measured})"
