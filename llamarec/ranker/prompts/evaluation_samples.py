"""Evaluation samples: the users whose label the retriever proposed, each candidate behind a letter."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from llamarec.data.prepared import PreparedData
from llamarec.evaluation.metrics import ranks_of_users
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.first_stage import FirstStage
from llamarec.ranker.prompts.training_samples import Prompt, Sample
from llamarec.retriever.candidates import Candidates
from llamarec.vocabulary import SPLITS, Split

# The purpose of a random draw is part of its key, so that no two purposes share a stream (see samples.py).
_USERS_STREAM, _PRESENTED_STREAM = 3, 4

Order = Literal["shuffled", "retriever", "reversed"]
"""In which the candidates of an evaluated prompt get their letters: `shuffled` says nothing about what the retriever
thinks of them, as in training; `retriever` has its favourite behind the letter A, as the published recipe has it."""
ORDERS: Final[tuple[Order, ...]] = ("shuffled", "retriever", "reversed")


class EvaluationSamples(Dataset[Sample]):
    """The users of a split whose label is among the retriever's candidates, shortest prompt first.

    Users whose label is not among them count as zero whatever the ranker says; they cost no prompt.

    Attributes:
        asked: Of whom, and what the retriever made of them.
        user_ids: [num_users] all users of the evaluated part, covered or not.
        retriever_ranks: [num_users] the label's place in the retriever's list, 0 = not among the candidates.
        rows: [num_prompts] which of those users each prompt belongs to.
        candidates_PC: [num_prompts, C] item ids in the order of their letters.
        scores_PC: [num_prompts, C] the retriever's, of the same.
        similarities_PC: [num_prompts, C] of their titles to those of the history.
        first_stage_PC: [num_prompts, C] what both come to without the language model.
        labels_P: [num_prompts] letter of the label (0 = A).
        order: See `Order`.

    Args:
        data: Prepared.
        candidates: Of the split.
        encoder: What makes prompts.
        split: Which labels.
        first_stage: What scores candidates without the language model.
        max_users: A fixed random part of so many users; 0: all.
        order: Of the candidates' letters.
        draw: Which shuffle of them.
        max_prompts: A fixed random part of so many covered users; the others are left out altogether. 0: all.
    """

    def __init__(
        self,
        data: PreparedData,
        candidates: Candidates,
        encoder: PromptEncoder,
        split: Split,
        *,
        max_users: int,
        first_stage: FirstStage | None = None,
        order: Order = "shuffled",
        draw: int = 0,
        max_prompts: int = 0,
    ) -> None:
        self._data, self._encoder, self._split, self._all = data, encoder, split, candidates
        self._max_users, self.order, self.first_stage = max_users, order, first_stage or FirstStage()
        self.asked = evaluated_users(candidates, split, encoder.num_candidates, max_users)
        chosen, self.user_ids, self.retriever_ranks = self.asked
        covered = np.flatnonzero(self.retriever_ranks > 0)
        covered = covered[_part_of(len(covered), max_prompts, split)]
        best_first = candidates.item_ids[chosen][covered, : encoder.num_candidates]
        # Which of the retriever's places has which letter.
        places_PC = np.array([presented(items, order, draw) for items in best_first], dtype=np.int64).reshape(
            best_first.shape
        )
        items_PC = np.take_along_axis(best_first, places_PC, axis=1)
        ids = [self._encode(int(row), items) for row, items in zip(covered, items_PC, strict=True)]
        # Prompts of one length need no padding; the order of evaluation changes no metric.
        by_length = np.argsort([len(one) for one in ids], kind="stable")
        self._ids = [ids[i] for i in by_length]
        self.rows: NDArray[np.int64] = covered[by_length]
        self.places_PC, self.candidates_PC = places_PC[by_length], items_PC[by_length]
        scores = candidates.scores[chosen][self.rows, : encoder.num_candidates]
        self.scores_PC = np.take_along_axis(scores, self.places_PC, axis=1)
        self.similarities_PC = self._similarities()
        self.first_stage_PC = self.first_stage.scores(self.scores_PC, self.similarities_PC)
        self.labels_P = np.argmax(self.places_PC == self.retriever_ranks[self.rows][:, None] - 1, axis=1)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        return {"input_ids": self._ids[index], "label": int(self.labels_P[index])}

    def reordered(self, order: Order, draw: int = 0, *, max_prompts: int = 0) -> EvaluationSamples:
        """The same users with other letters; of their prompts a fixed random part (0 = all)."""
        return self._again(max_users=self._max_users, order=order, draw=draw, max_prompts=max_prompts)

    def widened(self, max_users: int) -> EvaluationSamples:
        """A fixed random part of so many users of the split (0 = all); the same samples where that is no more."""
        there = len(self._all.user_ids)
        is_more = min(max_users or there, there) > len(self.user_ids)
        return self._again(max_users=max_users, order=self.order) if is_more else self

    def _again(self, *, max_users: int, order: Order, draw: int = 0, max_prompts: int = 0) -> EvaluationSamples:
        return EvaluationSamples(
            self._data,
            self._all,
            self._encoder,
            self._split,
            max_users=max_users,
            first_stage=self.first_stage,
            order=order,
            draw=draw,
            max_prompts=max_prompts,
        )

    def ranks_by(self, scores_PC: NDArray[np.floating]) -> NDArray[np.int64]:
        """[num_users] the label's rank by these scores of the candidates, 0 = not among them.

        Ties go to the candidate that the retriever likes better.
        """
        return ranks_of_users(scores_PC, self.places_PC, self.rows, self.retriever_ranks)

    def prompt(self, index: int) -> Prompt:
        """Item ids of prompt `index`."""
        history = self._history(int(self.rows[index]))
        return Prompt(history.tolist(), self.candidates_PC[index].tolist(), int(self.labels_P[index]))

    def _similarities(self) -> NDArray[np.float64]:
        of_prompts = [
            self.first_stage.similarities(self._taken(int(row)), items_C)
            for row, items_C in zip(self.rows, self.candidates_PC, strict=True)
        ]
        return np.array(of_prompts).reshape(self.candidates_PC.shape)

    def _taken(self, row: int) -> NDArray[np.int32]:
        return self._data.sequences.history(int(self.user_ids[row]), self._split)

    def _history(self, row: int) -> NDArray[np.int32]:
        return self._taken(row)[-self._encoder.max_history :]

    def _encode(self, row: int, items: NDArray[np.int32]) -> list[int]:
        return self._encoder.encode(self._history(row).tolist(), items.tolist())


class EvaluatedUsers(NamedTuple):
    """The evaluated part of a split's users.

    rows: [num_users] of the candidates. user_ids: [num_users]. retriever_ranks: [num_users] of the label, 0 = not a
    candidate.
    """

    rows: NDArray[np.int64]
    user_ids: NDArray[np.int32]
    retriever_ranks: NDArray[np.int64]


def evaluated_users(candidates: Candidates, split: Split, num_candidates: int, max_users: int) -> EvaluatedUsers:
    """A fixed random part of so many users (0 = all), with so many candidates each."""
    rows = _part_of(len(candidates.user_ids), max_users, split)
    ranks = candidates.label_ranks[rows]
    return EvaluatedUsers(rows, candidates.user_ids[rows], np.where(ranks <= num_candidates, ranks, 0))


def presented(best_first: NDArray[np.int32], order: Order, draw: int = 0) -> NDArray[np.int64]:
    """Which place of the retriever's list has which letter: a permutation of [C].

    A shuffle is a pure function of the candidates, so that a list gets the same letters in every run and when it is
    served.

    Args:
        best_first: [C] item ids.
        order: See `Order`.
        draw: Which of the shuffles.
    """
    places = np.arange(len(best_first))
    if order == "shuffled":
        return np.random.default_rng([_PRESENTED_STREAM, draw, *best_first.tolist()]).permutation(places)
    return places if order == "retriever" else places[::-1]


def _part_of(num_rows: int, max_rows: int, split: Split) -> NDArray[np.int64]:
    if not max_rows or max_rows >= num_rows:
        return np.arange(num_rows)
    # Not keyed by the run's seed: runs of different seeds are compared on the same users.
    rng = np.random.default_rng([_USERS_STREAM, SPLITS.index(split)])
    return np.sort(rng.choice(num_rows, size=max_rows, replace=False))
