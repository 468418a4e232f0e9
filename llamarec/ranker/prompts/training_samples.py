"""Training samples, each a pure function of (seed, epoch, index).

A training sample is a position in a user's sequence: the items before it are the history, the item at it is the label.
Negatives and the order of candidates come from a generator keyed by (seed, epoch, index), so worker processes and
resuming change nothing.

The order of an epoch is a pure function of (seed, epoch). Samples are indexed by `(epoch, index)`, so a dataset needs
no notion of the current epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.retriever.candidates import most_candidates
from llamarec.retriever.hard_negatives import TrainingLists
from llamarec.vocabulary import PADDING_ITEM

# The purpose of a random draw is part of its key, so that no two purposes share a stream.
_ORDER_STREAM, _SAMPLE_STREAM, _PROMPTS_STREAM = 1, 2, 5  # 3 and 4: evaluation_samples.py


class Sample(TypedDict):
    """One prompt: its token ids, and the letter of the right candidate (0 = A)."""

    input_ids: list[int]
    label: int


@dataclass(frozen=True)
class Prompt:
    """Items of a prompt: history, candidates in the order of their letters, and the letter of the right one (0 = A)."""

    history: list[int]
    candidates: list[int]
    label: int


class Negatives(NamedTuple):
    """Source of the wrong candidates of training prompts.

    Attributes:
        lists: A retriever's proposals for each training position (hard_negatives.parquet).
        share: Share of the wrong candidates drawn from them, while they last; the others are uniform.
        everywhere: Also at positions whose label the retriever would not have proposed.
    """

    lists: TrainingLists
    share: float
    everywhere: bool = False


class TrainingSamples(Dataset[Sample]):
    """All training positions from the second item on, indexed by `(epoch, index)`.

    Candidates are the label and negatives, shuffled. Some negatives are a retriever's proposals for this position, the
    others are uniform. Proposals are used only where the retriever would have proposed the label too, as in evaluation;
    elsewhere the right item would be the one that does not suit the history. As in evaluation, items of the history are
    no candidates unless the data set has repeats. Later items of the user are not excluded, because that would tell the
    model what the user will take.

    Attributes:
        num_left_out: Positions without a prompt, since too few items are outside the history before them.

    Args:
        data: Prepared data.
        encoder: Encoder of prompts.
        seed: Seed of negatives and shuffles.
        hard: Source of hard negatives; None means that all negatives are uniform.
        max_prompts: Size of a fixed random sample of the positions (0 = all).
        latest: Take each user's latest positions first, not a random sample.

    Raises:
        ArtifactError: there is no training position, or there are too few items for the candidates.
    """

    def __init__(
        self,
        data: PreparedData,
        encoder: PromptEncoder,
        seed: int,
        hard: Negatives | None = None,
        *,
        max_prompts: int = 0,
        latest: bool = False,
    ) -> None:
        self._data, self._encoder, self._seed, self._hard = data, encoder, seed, hard

        # Training positions of all users are numbered through, as the rows of the retriever's lists are.
        counts = data.sequences.num_training_positions()
        self._ends = np.cumsum(counts)
        possible = _has_candidates(data, encoder.num_candidates)
        self._rows = _chosen_rows(counts, max_prompts, possible, latest=latest)
        self.num_left_out = int((~possible).sum())

        if not counts.any():
            raise ArtifactError(
                f"{data.folder} has no training sample for the ranker",
                expected="at least one user with two training items",
                found=f"{data.num_users} users, {data.num_interactions} interactions",
            )

        most = most_candidates(data)
        if most < encoder.num_candidates or not len(self):
            raise ArtifactError(
                f"{data.folder} has too few items for {encoder.num_candidates} candidates",
                expected=f"at most {most} (--num_candidates)",
                found=f"{data.num_items:,} items; for {self.num_left_out:,} of {len(possible):,} training prompts too "
                "few are left",
                hint=f"--num_candidates {most}, or a lower --min_item_interactions, which keeps more items",
                retry_with=("--num_candidates", str(most)),
            )

    @property
    def lists(self) -> TrainingLists | None:
        """The retriever's lists that prompts draw from."""
        return self._hard.lists if self._hard else None

    @property
    def num_proposed(self) -> int:
        """Number of prompts whose label the retriever of the lists would have proposed."""
        if self._hard is None:
            return 0
        ranks_P = self._hard.lists.label_ranks_P[self._rows]
        return int(((ranks_P >= 1) & (ranks_P <= self._encoder.num_candidates)).sum())

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        prompt = self.prompt(*key)
        return {"input_ids": self._encoder.encode(prompt.history, prompt.candidates), "label": prompt.label}

    def prompt(self, epoch: int, index: int) -> Prompt:
        """Item ids of sample `index` in `epoch`."""
        row = int(self._rows[index])
        user = int(np.searchsorted(self._ends, row, side="right"))
        position = row - (int(self._ends[user - 1]) if user else 0) + 1
        items = self._data.sequences.train(user)
        history, label = items[:position], int(items[position])

        rng = np.random.default_rng([self._seed, _SAMPLE_STREAM, epoch, row])
        hard = self._hard_negatives(rng, row)
        candidates = [label, *hard, *self._uniform_negatives(rng, history, [label, *hard])]
        order = rng.permutation(len(candidates))

        return Prompt(
            history=history[-self._encoder.max_history :].tolist(),
            candidates=[candidates[i] for i in order],
            label=int(np.flatnonzero(order == 0)[0]),
        )

    def _hard_negatives(self, rng: np.random.Generator, row: int) -> list[int]:
        """A random sample of the retriever's best proposals for a position."""
        if self._hard is None or not self._is_proposed(self._hard, row):
            return []

        wanted = self._encoder.num_candidates - 1
        proposed = self._hard.lists.items_PK[row, :wanted]
        proposed = proposed[proposed != PADDING_ITEM]
        size = min(round(self._hard.share * wanted), proposed.size)
        return [int(item) for item in rng.choice(proposed, size=size, replace=False)]

    def _is_proposed(self, hard: Negatives, row: int) -> bool:
        return hard.everywhere or 1 <= int(hard.lists.label_ranks_P[row]) <= self._encoder.num_candidates

    def _uniform_negatives(self, rng: np.random.Generator, history: NDArray[np.int32], chosen: list[int]) -> list[int]:
        taken = set(chosen) if self._data.has_repeats else {*chosen, *history.tolist()}
        wanted = self._encoder.num_candidates - len(chosen)
        num_items = self._data.num_items

        if num_items - len(taken) < 4 * wanted:
            # Few items are left, so drawing until enough are new could take forever.
            rest = np.setdiff1d(np.arange(1, num_items + 1), list(taken))
            return [int(item) for item in rng.choice(rest, size=min(wanted, rest.size), replace=False)]

        negatives: list[int] = []
        while len(negatives) < wanted:
            item = int(rng.integers(1, num_items + 1))
            if item not in taken:
                taken.add(item)
                negatives.append(item)

        return negatives


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """[num_samples] the order of samples in an epoch."""
    return np.random.default_rng([seed, _ORDER_STREAM, epoch]).permutation(num_samples)


def _has_candidates(data: PreparedData, num_candidates: int) -> NDArray[np.bool_]:
    """[num_positions] whether the label and items outside the history are enough for a prompt."""
    counts = data.sequences.num_training_positions()
    ends = np.cumsum(counts)
    possible = np.ones(int(counts.sum()), dtype=np.bool_)
    if data.has_repeats:
        return possible

    for user in np.flatnonzero(data.num_items - counts < num_candidates):
        items = data.sequences.train(int(user))
        is_new = np.zeros(len(items), dtype=np.int64)
        is_new[np.unique(items, return_index=True)[1]] = 1
        # Of the history and the label, all but the label are no candidates.
        left = data.num_items - np.cumsum(is_new)[1:] + 1
        possible[ends[user] - counts[user] : ends[user]] = left >= num_candidates
    return possible


def _chosen_rows(
    counts: NDArray[np.int64], max_prompts: int, possible: NDArray[np.bool_], *, latest: bool
) -> NDArray[np.int64]:
    """Training positions that are trained on, in order, from the [num_users] numbers of positions."""
    total = int(counts.sum())
    if not max_prompts or max_prompts >= int(possible.sum()):
        return np.flatnonzero(possible)

    drawn = np.random.default_rng([_PROMPTS_STREAM]).random(total)
    # Positions that follow in the same user's sequence.
    after = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(total)
    first = np.lexsort((drawn, after)) if latest else np.argsort(drawn, kind="stable")
    return np.sort(first[possible[first]][:max_prompts])
