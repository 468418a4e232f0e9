"""Training and evaluation samples, each a pure function of what identifies it.

A training sample is (user, position): the items before the position are the history, the item at it the label. Its
negatives and the order of its candidates draw from a generator keyed by (seed, epoch, index); worker processes,
resumption and the order of evaluation therefore change nothing.

The order of an epoch is a pure function of (seed, epoch). Samples are asked for by `(epoch, index)`, so that a sample
never needs to be told which epoch it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.ranker.encoding import PromptEncoder
from llamarec.retriever.candidates import Candidates, most_candidates
from llamarec.vocabulary import SPLITS, Split

# The purpose of a random draw is part of its key, so that no two purposes share a stream.
_ORDER_STREAM, _SAMPLE_STREAM, _USERS_STREAM = 1, 2, 3


class Sample(TypedDict):
    """One prompt: its token ids and the place of the label among the candidates (0 = letter A)."""

    input_ids: list[int]
    label: int


@dataclass(frozen=True)
class Prompt:
    """What a prompt is made of: item ids, and the place of the label among the candidates."""

    history: list[int]
    candidates: list[int]
    label: int


class TrainingSamples(Dataset[Sample]):
    """All (user, position) of the training parts, position 1 and later; asked for by `(epoch, index)`.

    Candidates are the label and uniformly drawn negatives, shuffled. As at evaluation, an item of the history is
    no candidate, except where the data set has repeats. Later items of the user are not excluded: that would tell
    the model what the user will take.
    """

    def __init__(self, data: PreparedData, encoder: PromptEncoder, seed: int) -> None:
        self._data, self._encoder, self._seed = data, encoder, seed
        positions = np.maximum(data.sequences.train_ends.astype(np.int64) - 1, 0)
        self._ends = np.cumsum(positions)
        if not len(self):
            raise ArtifactError(
                f"{data.folder} has no training sample for the ranker",
                expected="at least one user with two training items",
                found=f"{data.num_users} users, {data.num_interactions} interactions",
            )
        most = most_candidates(data)
        if most < encoder.num_candidates:
            raise ArtifactError(
                f"{data.folder} has too few items to draw {encoder.num_candidates} candidates from",
                expected=f"at most {most} (--num_candidates)",
                found=f"{data.num_items:,} items, of which the longest history excludes {data.num_items - most:,}",
                hint=f"--num_candidates {most}, or a lower --min_item_interactions, which keeps more items",
                retry_with=("--num_candidates", str(most)),
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends.size else 0

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        prompt = self.prompt(*key)
        return {"input_ids": self._encoder.encode(prompt.history, prompt.candidates), "label": prompt.label}

    def prompt(self, epoch: int, index: int) -> Prompt:
        """Item ids of sample `index` in `epoch`."""
        user = int(np.searchsorted(self._ends, index, side="right"))
        position = index - (int(self._ends[user - 1]) if user else 0) + 1
        items = self._data.sequences.train(user)
        history, label = items[:position], int(items[position])
        rng = np.random.default_rng([self._seed, _SAMPLE_STREAM, epoch, index])
        candidates = [label, *self._negatives(rng, history, label)]
        order = rng.permutation(len(candidates))
        return Prompt(
            history=history[-self._encoder.max_history :].tolist(),
            candidates=[candidates[i] for i in order],
            label=int(np.flatnonzero(order == 0)[0]),
        )

    def _negatives(self, rng: np.random.Generator, history: NDArray[np.int32], label: int) -> list[int]:
        taken = {label} if self._data.has_repeats else {label, *history.tolist()}
        wanted = self._encoder.num_candidates - 1
        num_items = self._data.num_items
        if num_items - len(taken) < 4 * wanted:
            # So few are left that drawing until enough are new could take for ever.
            rest = np.setdiff1d(np.arange(1, num_items + 1), list(taken))
            return [int(item) for item in rng.choice(rest, size=min(wanted, rest.size), replace=False)]
        negatives: list[int] = []
        while len(negatives) < wanted:
            item = int(rng.integers(1, num_items + 1))
            if item not in taken:
                taken.add(item)
                negatives.append(item)
        return negatives


class EvaluationSamples(Dataset[Sample]):
    """The users of a split whose label is among the retriever's candidates, shortest prompt first.

    Users whose label is not among them count as zero whatever the ranker says; they cost no prompt.

    Attributes:
        user_ids: [num_users] all users of the evaluated part, covered or not.
        retriever_ranks: [num_users] the label's place in the retriever's list, 0 = not among the candidates.
        rows: [num_prompts] which of those users each prompt belongs to.
    """

    def __init__(
        self,
        data: PreparedData,
        candidates: Candidates,
        encoder: PromptEncoder,
        split: Split,
        *,
        max_users: int,
    ) -> None:
        chosen = _part_of_users(len(candidates.user_ids), max_users, split)
        self.user_ids = candidates.user_ids[chosen]
        ranks = candidates.label_ranks[chosen]
        self.retriever_ranks = np.where(ranks <= encoder.num_candidates, ranks, 0)
        covered = np.flatnonzero(self.retriever_ranks > 0)
        self._label_places = self.retriever_ranks[covered] - 1
        self._candidates = candidates.item_ids[chosen][covered, : encoder.num_candidates]
        self._data, self._encoder, self._split = data, encoder, split
        self._ids = [self._encode(int(row), items) for row, items in zip(covered, self._candidates, strict=True)]
        # Prompts of one length need no padding; the order of evaluation changes no metric.
        by_length = np.argsort([len(ids) for ids in self._ids], kind="stable")
        self._ids = [self._ids[i] for i in by_length]
        self._label_places, self._candidates = self._label_places[by_length], self._candidates[by_length]
        self.rows: NDArray[np.int64] = covered[by_length]

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        return {"input_ids": self._ids[index], "label": int(self._label_places[index])}

    def ranks(self, letter_ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ranks of all users from the ranks of the prompts: [num_prompts] -> [num_users], 0 = not covered."""
        ranks = np.zeros(len(self.user_ids), dtype=np.int64)
        ranks[self.rows] = letter_ranks
        return ranks

    def prompt(self, index: int) -> Prompt:
        """Item ids of prompt `index`."""
        history = self._history(int(self.rows[index]))
        return Prompt(history.tolist(), self._candidates[index].tolist(), int(self._label_places[index]))

    def _history(self, row: int) -> NDArray[np.int32]:
        return self._data.sequences.history(int(self.user_ids[row]), self._split)[-self._encoder.max_history :]

    def _encode(self, row: int, items: NDArray[np.int32]) -> list[int]:
        return self._encoder.encode(self._history(row).tolist(), items.tolist())


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of samples in an epoch: a permutation of [num_samples]."""
    return np.random.default_rng([seed, _ORDER_STREAM, epoch]).permutation(num_samples)


def _part_of_users(num_rows: int, max_users: int, split: Split) -> NDArray[np.int64]:
    if not max_users or max_users >= num_rows:
        return np.arange(num_rows)
    # Not keyed by the run's seed: runs of different seeds are compared on the same users.
    rng = np.random.default_rng([_USERS_STREAM, SPLITS.index(split)])
    return np.sort(rng.choice(num_rows, size=max_users, replace=False))
