"""What is compared, and the one way in which everything is compared.

A system is fitted on the training part of a set. It then scores the whole catalogue after any history. The label of a
user is the first item after the validation part (its history includes the validation item); its rank is counted over
the whole catalogue without the history, unless people of the set come back to items. A tie counts against the system.

With each user's last item as the test there is no common moment: training items are known whenever they were, and a
question is asked at the time of the history's last item. A cut in time has one: what only counts may count everything
before the cut, the validation part included, once its choices are made; trained models are trained once more on it, for
as many epochs as were best on validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.evaluation.metrics import score_ranks
from llamarec.vocabulary import PADDING_ITEM, Split

METRICS: Final = ("ndcg@10", "recall@10", "recall@20")
_BLOCK_USERS: Final = 256

Notes = Mapping[str, str | int | float]
"""What a system chose or needed, such as its number of epochs."""


class Scorer(Protocol):
    """A fitted system."""

    def scores(self, histories: Sequence[NDArray[np.int32]], times: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of all items as the next one: [histories, items + 1]; minus infinity where it has no opinion.

        Args:
            histories: Item ids, oldest first, none of them empty.
            times: [histories] moment of each question, in seconds since 1970.
        """


@dataclass(frozen=True)
class Fitted:
    """What a fit results in.

    Attributes:
        scorers: By the row of the table that each makes: the system's own, and any part of it that is shown apart.
        notes: What was chosen.
        seconds: Of fitting a part alone, by its row; a row that is not named took the whole fit.
    """

    scorers: Mapping[str, Scorer]
    notes: Notes = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How to fit.

    Attributes:
        seed: Of everything that is random.
        folder: Empty folder for what a training writes; it is removed afterwards.
        max_epochs: Most passes over the data; None: as many as the system asks for.
    """

    seed: int
    folder: Path
    max_epochs: int | None = None

    def epochs(self, wanted: int) -> int:
        """Passes over the data, at most."""
        return wanted if self.max_epochs is None else min(wanted, self.max_epochs)


def _nothing() -> None:
    """Nothing is missing."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One entry of the comparison.

    Attributes:
        name: On the command line and in file names.
        titles: Of each row that a fit can make, by its name, in the order of the table.
        fit: Fits it on the training part. It may choose on the validation part; the test part is not for it.
        is_ours: Whether it is part of this project.
        is_random: Whether seeds differ. Otherwise it is fitted once.
        needs: Raises ConfigError, which names the command to type, where a library is missing.
        packages: Libraries whose version a result depends on.
    """

    name: str
    titles: Mapping[str, str]
    fit: Callable[[PreparedData, Fit], Fitted]
    is_ours: bool = False
    is_random: bool = False
    needs: Callable[[], None] = _nothing
    packages: tuple[str, ...] = ("numpy", "torch")


def is_cut_in_time(data: PreparedData) -> bool:
    """Whether there is one moment for all users from which on nothing is known."""
    return data.manifest["options"].get("split") == "temporal"


def known_sequences(data: PreparedData, split: Split) -> list[NDArray[np.int32]]:
    """[users] what may be counted for the questions of a split, by time: see the module."""
    sequences = data.sequences
    if split == "test" and is_cut_in_time(data):
        return [sequences.history(user, "test") for user in range(data.num_users)]
    return [sequences.train(user) for user in range(data.num_users)]


def moments(data: PreparedData, split: Split) -> NDArray[np.int64]:
    """[users] when the question of a split is asked, in seconds since 1970."""
    sequences = data.sequences
    ends = sequences.train_ends if split == "validation" else sequences.validation_ends
    lasts = sequences.timestamps[sequences.offsets[:-1] + np.maximum(ends, 1) - 1]
    return np.full_like(lasts, lasts[ends > 0].max(initial=0)) if is_cut_in_time(data) else lasts


def label_ranks(scorer: Scorer, data: PreparedData, split: Split) -> NDArray[np.int64]:
    """Rank of each labelled user's label in the whole catalogue: [users], 1 = first, 0 = a miss at any cutoff.

    Args:
        scorer: A fitted system.
        data: Prepared data.
        split: Whose label: `validation` to choose, `test` to report.
    """
    users, times = data.sequences.users_with_label(split), moments(data, split)
    blocks = [users[start : start + _BLOCK_USERS] for start in range(0, len(users), _BLOCK_USERS)]
    ranks = [_ranks(scorer, data, block, times[block], split) for block in blocks]
    return np.concatenate(ranks) if ranks else np.zeros(0, dtype=np.int64)


def _ranks(
    scorer: Scorer, data: PreparedData, users: NDArray[np.int32], times_B: NDArray[np.int64], split: Split
) -> NDArray[np.int64]:
    sequences = data.sequences
    histories = [sequences.history(int(user), split) for user in users]
    labels_B = np.array([sequences.label(int(user), split) for user in users], dtype=np.int64)
    lengths_B = np.array([len(history) for history in histories])
    scores_BN = np.array(scorer.scores(histories, times_B), dtype=np.float32)

    scores_BN[:, PADDING_ITEM] = -np.inf
    if not data.has_repeats:
        scores_BN[np.repeat(np.arange(len(users)), lengths_B), np.concatenate(histories)] = -np.inf
    return score_ranks(scores_BN, labels_B, listed=False)
