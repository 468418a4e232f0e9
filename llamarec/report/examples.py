"""A few test users: history, candidates in both orders, and the item they took next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from llamarec.data.prepared import PreparedData
from llamarec.vocabulary import (
    CANDIDATE_IDS,
    FINAL_RANK,
    FINAL_SCORES,
    LABEL_ID,
    LETTER_LOGP,
    RETRIEVER_RANK,
    SCORES,
    USER,
    USER_ID,
)

_SHOWN_HISTORY: Final = 10


@dataclass(frozen=True)
class Candidate:
    """One item that was proposed to a user.

    Attributes:
        title: Its title.
        retriever_rank: Its rank in the retriever's order, 1 = first.
        final_rank: Its rank in the final order, 1 = first.
        retriever_score: The retriever's logit.
        letter_p: Probability of its letter.
        final_score: The score that the final order sorts by.
        is_label: Whether the user took it next.
    """

    title: str
    retriever_rank: int
    final_rank: int
    retriever_score: float
    letter_p: float
    final_score: float
    is_label: bool


@dataclass(frozen=True)
class Example:
    """A test user.

    Attributes:
        why: Why this user is shown.
        user: Key in the raw data.
        history: The last titles of the history, oldest first.
        num_history: Length of the whole history.
        label: Title of the item that the user took next.
        retriever_rank: Its rank in the retriever's order.
        final_rank: Its rank in the final order.
        candidates: The proposed items, by final rank.
    """

    why: str
    user: str
    history: list[str]
    num_history: int
    label: str
    retriever_rank: int
    final_rank: int
    candidates: list[Candidate]


def examples(test: pl.DataFrame, data: PreparedData) -> list[Example]:
    """The user who gains most, the median user, one drawn at random, and the one who loses most, if any does."""
    # A test over the whole catalogue keeps ranks, no lists.
    if CANDIDATE_IDS not in test.columns:
        return []

    # If a score is not a number, there is no order to show.
    covered = test.filter((pl.col(RETRIEVER_RANK) > 0) & (pl.col(FINAL_RANK) > 0))
    if not len(covered):
        return []

    gains = (covered[RETRIEVER_RANK] - covered[FINAL_RANK]).to_numpy()
    order = np.argsort(gains, kind="stable")
    drawn = int(np.random.default_rng(0).integers(len(covered)))
    chosen = {"median": int(order[len(order) // 2]), "drawn at random": drawn}
    if gains[order[-1]] > 0:
        chosen = {"gains most": int(order[-1]), **chosen}
    if gains[order[0]] < 0:
        chosen["loses most"] = int(order[0])

    # Among few users one may be several of these.
    unique = {row: why for why, row in reversed(chosen.items())}
    try:
        return [_example(why, covered.row(row, named=True), data) for row, why in reversed(unique.items())]
    except (IndexError, KeyError, TypeError, ValueError):
        # The file has no hash. Lists that do not fit one another, or the data, are not shown.
        return []


def _example(why: str, row: dict[str, object], data: PreparedData) -> Example:
    user, label = int(str(row[USER_ID])), int(str(row[LABEL_ID]))
    history = data.sequences.history(user, "test")
    candidates = _candidates(row, label, data)

    return Example(
        why=why,
        user=str(row[USER]),
        history=[data.titles[int(item)] for item in history[-_SHOWN_HISTORY:]],
        num_history=len(history),
        label=data.titles[label],
        retriever_rank=int(str(row[RETRIEVER_RANK])),
        final_rank=int(str(row[FINAL_RANK])),
        candidates=sorted(candidates, key=lambda candidate: candidate.final_rank),
    )


def _candidates(row: dict[str, object], label: int, data: PreparedData) -> list[Candidate]:
    items, scores, logp, final = (np.array(row[name]) for name in (CANDIDATE_IDS, SCORES, LETTER_LOGP, FINAL_SCORES))
    final_ranks = np.empty(len(items), dtype=np.int64)
    final_ranks[np.argsort(-final, kind="stable")] = np.arange(1, len(items) + 1)

    return [
        Candidate(
            title=data.titles[int(item)],
            retriever_rank=slot + 1,
            final_rank=int(final_ranks[slot]),
            retriever_score=float(scores[slot]),
            letter_p=float(np.exp(logp[slot])),
            final_score=float(final[slot]),
            is_label=int(item) == label,
        )
        for slot, item in enumerate(items)
    ]
