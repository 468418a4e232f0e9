"""Training samples, each a pure function of what identifies it.

A training sample is (user, position): the items before the position are the history, the item at it the label. Its
negatives and the order of its candidates draw from a generator keyed by (seed, epoch, index); worker processes
and resumption therefore change nothing.

The order of an epoch is a pure function of (seed, epoch). Samples are asked for by `(epoch, index)`, so that a sample
never needs to be told which epoch it is.
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
    """One prompt: its token ids and the place of the label among the candidates (0 = letter A)."""

    input_ids: list[int]
    label: int


@dataclass(frozen=True)
class Prompt:
    """What a prompt is made of: item ids, and the place of the label among the candidates."""

    history: list[int]
    candidates: list[int]
    label: int


class Negatives(NamedTuple):
    """What the wrong candidates of training prompts are drawn from.

    lists: A retriever's for each place (hard_negatives.parquet).
    share: Of the wrong candidates that come from them, as far as they reach; the others are uniform.
    everywhere: Also at places whose label the retriever would not have proposed.
    """

    lists: TrainingLists
    share: float
    everywhere: bool = False


class TrainingSamples(Dataset[Sample]):
    """All (user, position) of the training parts, position 1 and later; asked for by `(epoch, index)`.

    Candidates are the label and negatives, shuffled: some of a retriever's for this place, the others uniformly
    drawn. The retriever's stand only beside a label that it would have proposed too, as at evaluation: beside another
    one the right item would be that which does not suit the history. As at evaluation, an item of the history is no
    candidate, except where the data set has repeats. Later items of the user are not excluded: that would tell the
    model what the user will take.

    Args:
        data: Prepared.
        encoder: What makes prompts.
        seed: Of negatives and shuffles.
        hard: Where negatives come from; None: all are uniform.
        max_prompts: At most so many places, a fixed random part of all (0 = all).
        latest: Take each user's latest places first instead.
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
        positions = data.sequences.num_training_positions()
        self._ends = np.cumsum(positions)
        self._places = _part_of_places(positions, max_prompts, latest=latest)
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

    @property
    def lists(self) -> TrainingLists | None:
        """The retriever's that prompts draw from."""
        return self._hard.lists if self._hard else None

    @property
    def num_proposed(self) -> int:
        """Prompts whose label the lists' retriever would have proposed too."""
        if self._hard is None:
            return 0
        return int((self._hard.lists.label_ranks_P[self._places] <= self._encoder.num_candidates).sum())

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        prompt = self.prompt(*key)
        return {"input_ids": self._encoder.encode(prompt.history, prompt.candidates), "label": prompt.label}

    def prompt(self, epoch: int, index: int) -> Prompt:
        """Item ids of sample `index` in `epoch`."""
        place = int(self._places[index])
        user = int(np.searchsorted(self._ends, place, side="right"))
        position = place - (int(self._ends[user - 1]) if user else 0) + 1
        items = self._data.sequences.train(user)
        history, label = items[:position], int(items[position])
        rng = np.random.default_rng([self._seed, _SAMPLE_STREAM, epoch, place])
        hard = self._hard_negatives(rng, place)
        candidates = [label, *hard, *self._uniform_negatives(rng, history, [label, *hard])]
        order = rng.permutation(len(candidates))
        return Prompt(
            history=history[-self._encoder.max_history :].tolist(),
            candidates=[candidates[i] for i in order],
            label=int(np.flatnonzero(order == 0)[0]),
        )

    def _hard_negatives(self, rng: np.random.Generator, place: int) -> list[int]:
        """Of the retriever's best ones for this place, a random part."""
        if self._hard is None or not self._is_proposed(self._hard, place):
            return []
        wanted = self._encoder.num_candidates - 1
        proposed = self._hard.lists.items_PK[place, :wanted]
        proposed = proposed[proposed != PADDING_ITEM]
        size = min(round(self._hard.share * wanted), proposed.size)
        return [int(item) for item in rng.choice(proposed, size=size, replace=False)]

    def _is_proposed(self, hard: Negatives, place: int) -> bool:
        return hard.everywhere or int(hard.lists.label_ranks_P[place]) <= self._encoder.num_candidates

    def _uniform_negatives(self, rng: np.random.Generator, history: NDArray[np.int32], chosen: list[int]) -> list[int]:
        taken = set(chosen) if self._data.has_repeats else {*chosen, *history.tolist()}
        wanted = self._encoder.num_candidates - len(chosen)
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


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of samples in an epoch: a permutation of [num_samples]."""
    return np.random.default_rng([seed, _ORDER_STREAM, epoch]).permutation(num_samples)


def _part_of_places(positions: NDArray[np.int64], max_prompts: int, *, latest: bool) -> NDArray[np.int64]:
    """Of [num_users] numbers of places: which of all places, in their order, are trained on."""
    total = int(positions.sum())
    if not max_prompts or max_prompts >= total:
        return np.arange(total)
    drawn = np.random.default_rng([_PROMPTS_STREAM]).random(total)
    # How many places the user has after this one.
    after = np.repeat(np.cumsum(positions), positions) - 1 - np.arange(total)
    first = np.lexsort((drawn, after)) if latest else np.argsort(drawn, kind="stable")
    return np.sort(first[:max_prompts])
