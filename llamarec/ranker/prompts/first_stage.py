"""Scores of candidates without the language model: the retriever's score and the similarity of titles.

    score = retriever score + title_weight * title similarity

A retriever learns an item from the users who took it. It knows little about rare items, and their titles say more. The
weight is fitted on validation users, like that of the letters. It is 0 if titles do not raise the likelihood of users
that the fit has not seen (figures in docs/decisions/0009-ranker-quality.md).

    P prompts, C candidates
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.evaluation.logit import weigh
from llamarec.experts.title_words import TitleSimilarity
from llamarec.retriever.candidates import Candidates

_MAX_PROMPTS: Final = 20_000
"""Enough to fit one weight; more would only take longer."""


@dataclass(frozen=True)
class FirstStage:
    """Scores of candidates without a language model.

    Attributes:
        similarity: Similarity of titles; None leaves the retriever's scores unchanged.
        title_weight: Weight of the similarity.
        gain: Log-likelihood per prompt that titles add on users outside the fit, in nats.
        num_prompts: Prompts of the fit.
        is_contrary: The likeliest weight is negative: users take items with dissimilar titles next.
    """

    similarity: TitleSimilarity | None = None
    title_weight: float = 0.0
    gain: float = 0.0
    num_prompts: int = 0
    is_contrary: bool = False

    def similarities(self, history: NDArray[np.integer], candidates: NDArray[np.integer]) -> NDArray[np.float64]:
        """[C] similarity of each candidate's title to the history; 0 if titles are not used."""
        if self.similarity is None or not self.title_weight:
            return np.zeros(len(candidates))
        return self.similarity(history, candidates)

    def scores(self, retriever: NDArray[np.floating], similarities: NDArray[np.float64]) -> NDArray[np.floating]:
        """Retriever scores plus weighted similarities, in the shape of the arguments."""
        return retriever + self.title_weight * similarities if self.title_weight else retriever


def stored_first_stage(titles: list[str], title_weight: float) -> FirstStage:
    """The first stage of a trained run, with the weight from its fusion."""
    return FirstStage(TitleSimilarity(titles), title_weight) if title_weight else FirstStage()


def fit_first_stage(data: PreparedData, validation: Candidates, num_candidates: int) -> FirstStage:
    """Fits the weight on all validation users whose label is among the candidates, without the language model.

    Args:
        data: Prepared data.
        validation: The retriever's candidates for the validation users.
        num_candidates: Candidates of a prompt.
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
    """One line on whether titles count."""
    measured = f"{first_stage.gain:+.3f} nats per user, {first_stage.num_prompts:,} validation users"

    if first_stage.is_contrary:
        return f"not used: users take items with dissimilar titles next ({measured}, with a negative weight)"
    if not first_stage.title_weight:
        return f"not used: titles add less than a standard error to the retriever's score ({measured})"
    return f"retriever's score + {first_stage.title_weight:.2f} x similarity to the history ({measured})"
