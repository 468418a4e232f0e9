"""Evaluation samples: a prompt for each user whose label the retriever proposed."""

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

# The purpose of a random draw is part of its key, so that no two purposes share a stream (see training_samples).
_USERS_STREAM, _LETTERS_STREAM = 3, 4

Order = Literal["shuffled", "retriever", "reversed"]
"""Order in which candidates get their letters: `shuffled` hides the retriever's opinion, as in training; `retriever`
puts its favourite behind the letter A, as in the published recipe."""
ORDERS: Final[tuple[Order, ...]] = ("shuffled", "retriever", "reversed")


class EvaluationSamples(Dataset[Sample]):
    """Prompts of the users of a split whose label is among the retriever's candidates, shortest prompt first.

    Other users count as zero whatever the ranker says, so they cost no prompt.

    Attributes:
        users: The evaluated users and their retriever ranks.
        user_ids: [num_users] all evaluated users, with or without a prompt.
        retriever_ranks: [num_users] the label's rank in the retriever's list, 0 = not among the candidates.
        rows: [num_prompts] index into `user_ids`.
        positions_PC: [num_prompts, C] position in the retriever's list (from 0) of the candidate behind each letter.
        candidates_PC: [num_prompts, C] item ids in the order of their letters.
        scores_PC: [num_prompts, C] their retriever scores.
        similarities_PC: [num_prompts, C] similarity of their titles to the history's.
        first_stage_PC: [num_prompts, C] their scores without the language model.
        labels_P: [num_prompts] letter of the label (0 = A).
        order: See `Order`.

    Args:
        data: Prepared data.
        candidates: The retriever's candidates for the split.
        encoder: Encoder of prompts.
        split: Split whose labels are evaluated.
        first_stage: Scores of candidates without the language model.
        max_users: Size of a fixed random sample of users; 0 means all.
        order: Order of the candidates' letters.
        draw: Number of the shuffle.
        max_prompts: Size of a fixed random sample of prompts; users beyond it count as not covered. 0 means all.
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

        self.users = evaluated_users(candidates, split, encoder.num_candidates, max_users)
        chosen, self.user_ids, self.retriever_ranks = self.users
        covered = np.flatnonzero(self.retriever_ranks > 0)
        covered = covered[fixed_sample(len(covered), max_prompts, split)]

        best_first = candidates.item_ids[chosen][covered, : encoder.num_candidates]
        positions_PC = np.array([letter_order(items, order, draw) for items in best_first], dtype=np.int64).reshape(
            best_first.shape
        )
        items_PC = np.take_along_axis(best_first, positions_PC, axis=1)
        ids = [self._encode(int(row), items) for row, items in zip(covered, items_PC, strict=True)]

        # Prompts of equal length need no padding, and the order of evaluation changes no metric.
        by_length = np.argsort([len(one) for one in ids], kind="stable")
        self._ids = [ids[i] for i in by_length]
        self.rows: NDArray[np.int64] = covered[by_length]
        self.positions_PC, self.candidates_PC = positions_PC[by_length], items_PC[by_length]

        scores = candidates.scores[chosen][self.rows, : encoder.num_candidates]
        self.scores_PC = np.take_along_axis(scores, self.positions_PC, axis=1)
        self.similarities_PC = self._similarities()
        self.first_stage_PC = self.first_stage.scores(self.scores_PC, self.similarities_PC)
        self.labels_P = np.argmax(self.positions_PC == self.retriever_ranks[self.rows][:, None] - 1, axis=1)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        return {"input_ids": self._ids[index], "label": int(self.labels_P[index])}

    def reordered(self, order: Order, draw: int = 0, *, max_prompts: int = 0) -> EvaluationSamples:
        """The same users with other letters; optionally a fixed random sample of their prompts (0 = all)."""
        return self._copy(max_users=self._max_users, order=order, draw=draw, max_prompts=max_prompts)

    def widened(self, max_users: int) -> EvaluationSamples:
        """A fixed random sample of `max_users` users of the split (0 = all); `self` if that is no more than now."""
        available = len(self._all.user_ids)
        is_more = min(max_users or available, available) > len(self.user_ids)
        return self._copy(max_users=max_users, order=self.order) if is_more else self

    def _copy(self, *, max_users: int, order: Order, draw: int = 0, max_prompts: int = 0) -> EvaluationSamples:
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
        """[num_users] the label's rank by scores of the candidates, 0 = not among them.

        Ties go to the candidate that the retriever ranks higher.
        """
        return ranks_of_users(scores_PC, self.positions_PC, self.rows, self.retriever_ranks)

    def prompt(self, index: int) -> Prompt:
        """Item ids of prompt `index`."""
        history = self._history(int(self.rows[index]))
        return Prompt(history.tolist(), self.candidates_PC[index].tolist(), int(self.labels_P[index]))

    def _similarities(self) -> NDArray[np.float64]:
        of_prompts = [
            self.first_stage.similarities(self._whole_history(int(row)), items_C)
            for row, items_C in zip(self.rows, self.candidates_PC, strict=True)
        ]
        return np.array(of_prompts).reshape(self.candidates_PC.shape)

    def _whole_history(self, row: int) -> NDArray[np.int32]:
        return self._data.sequences.history(int(self.user_ids[row]), self._split)

    def _history(self, row: int) -> NDArray[np.int32]:
        return self._whole_history(row)[-self._encoder.max_history :]

    def _encode(self, row: int, items: NDArray[np.int32]) -> list[int]:
        return self._encoder.encode(self._history(row).tolist(), items.tolist())


class EvaluatedUsers(NamedTuple):
    """The evaluated users of a split.

    Attributes:
        rows: [num_users] row in the candidates of the split.
        user_ids: [num_users] user ids.
        retriever_ranks: [num_users] the label's rank, 0 = not a candidate.
    """

    rows: NDArray[np.int64]
    user_ids: NDArray[np.int32]
    retriever_ranks: NDArray[np.int64]


def evaluated_users(candidates: Candidates, split: Split, num_candidates: int, max_users: int) -> EvaluatedUsers:
    """A fixed random sample of `max_users` users (0 = all), with ranks among `num_candidates` candidates."""
    rows = fixed_sample(len(candidates.user_ids), max_users, split)
    ranks = candidates.label_ranks[rows]
    return EvaluatedUsers(rows, candidates.user_ids[rows], np.where(ranks <= num_candidates, ranks, 0))


def letter_order(best_first: NDArray[np.int32], order: Order, draw: int = 0) -> NDArray[np.int64]:
    """[C] position in the retriever's list of the candidate behind each letter.

    A shuffle is a pure function of the candidates, so a list gets the same letters in every run and when it is served.

    Args:
        best_first: [C] item ids, the retriever's best first.
        order: See `Order`.
        draw: Number of the shuffle.
    """
    positions = np.arange(len(best_first))
    if order == "shuffled":
        return np.random.default_rng([_LETTERS_STREAM, draw, *best_first.tolist()]).permutation(positions)
    return positions if order == "retriever" else positions[::-1]


def fixed_sample(num_rows: int, max_rows: int, split: Split) -> NDArray[np.int64]:
    """Sorted indices of a fixed random sample of the rows of a split (0 = all), the same in every run."""
    if not max_rows or max_rows >= num_rows:
        return np.arange(num_rows)

    # The run's seed is not part of the key: runs with different seeds are compared on the same users.
    rng = np.random.default_rng([_USERS_STREAM, SPLITS.index(split)])
    return np.sort(rng.choice(num_rows, size=max_rows, replace=False))
