"""Scores of the whole catalogue by two experts: the weights of their sum, and the ranks of the next items.

    score = first stage + weight x language model

The weight comes from a conditional logit on validation users, over the items that either expert ranks highest. It is 0
if the language model does not raise the likelihood of users outside the fit by more than a standard error.

    U users, N items, C candidates
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llamarec.evaluation.comparison import Comparison, compare_ranks
from llamarec.evaluation.fusion import Fusion
from llamarec.evaluation.logit import weigh
from llamarec.evaluation.metrics import score_ranks

Scores = NDArray[np.floating]
Expert = Callable[[slice], Scores]
"""Some of the asked users -> [users, N + 1] scores; column 0 is padding. Higher is likelier."""

_BLOCK_USERS: Final = 256
_OF_KNOWN, _OF_NEW = 100, 40
"""Candidates of the fit: the best of the first stage, and the best others of the language model."""


@dataclass(frozen=True)
class AskedUsers:
    """Users whose next item is known.

    Attributes:
        histories: [U] item ids before it, oldest first.
        labels: [U] the next item.
        excludes: Whether items of the history are left out.
    """

    histories: list[NDArray[np.int32]]
    labels: NDArray[np.int64]
    excludes: bool

    @property
    def most_excluded(self) -> int:
        """Items that are left out for one user, at most."""
        return max(map(len, self.histories), default=0) if self.excludes else 0

    def blocks(self) -> Iterator[slice]:
        """Some users at a time, so that memory does not grow with users x items."""
        for start in range(0, len(self.labels), _BLOCK_USERS):
            yield slice(start, min(start + _BLOCK_USERS, len(self.labels)))

    def masked(self, expert: Expert, block: slice) -> NDArray[np.float64]:
        """[B, N + 1] scores of an expert; minus infinity for padding and excluded items."""
        histories = self.histories[block]
        scores_BN = expert(block).astype(np.float64)
        scores_BN[:, 0] = -np.inf
        if self.excludes:
            rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
            scores_BN[rows, np.concatenate(histories)] = -np.inf
        return scores_BN


@dataclass(frozen=True)
class CatalogueWeights:
    """Weights of the sum.

    Attributes:
        new: Weight of the language model, per unit of the first stage's; 0 = it adds nothing.
        gain: Log-likelihood that it adds to a held-out user, in nats.
        error: Standard error of the gain.
        num_prompts: Users of the fit, those whose next item is among the candidates.
        num_users: Users that were asked.
        step: Step of the adapter.
    """

    new: float
    gain: float
    error: float
    num_prompts: int
    num_users: int
    step: int = 0

    def combined(self, known_UN: Scores, new_UN: Scores) -> Scores:
        """[U, N + 1] final scores."""
        return known_UN + self.new * new_UN if self.new else known_UN


@dataclass(frozen=True)
class CatalogueRanks:
    """[U] ranks of the next items in the whole catalogue, 1 = first, 0 = excluded."""

    known: NDArray[np.int64]
    new: NDArray[np.int64]
    final: NDArray[np.int64]


@dataclass(frozen=True)
class CatalogueOutcome:
    """Results of a test over the whole catalogue.

    Attributes:
        comparison: Final order against the first stage's.
        alone: The language model alone against the first stage.
        weights: Weights of the final score.
    """

    comparison: Comparison
    alone: Comparison
    weights: CatalogueWeights

    def as_dict(self) -> dict[str, object]:
        """Content of metrics.json; the keys of a test of letters mean the same for the reports."""
        weights = self.weights
        as_fusion = Fusion(
            letters=float(bool(weights.new)),
            alpha=1 / weights.new if weights.new else 1.0,
            deviation=1.0,
            letter_prior=(),
            num_prompts=weights.num_prompts,
            num_users=weights.num_users,
            step=weights.step,
            gain=weights.gain,
        )
        return {
            **self.comparison.as_dict(),
            "letters": self.alone.as_dict(),
            "fusion": asdict(as_fusion),
            "catalogue": asdict(weights),
            "orders": None,
        }


def fit_catalogue(known: Expert, new: Expert, users: AskedUsers, *, step: int = 0) -> CatalogueWeights:
    """Fits the weight of the language model on validation users.

    Args:
        known: The first stage.
        new: The language model.
        users: Users of the fit.
        step: Step of the adapter.
    """
    parts = [
        _candidates(users.masked(known, block), users.masked(new, block), users.labels[block], users.most_excluded)
        for block in users.blocks()
    ]
    known_PC, new_PC, labels_P = (np.concatenate(list(part)) for part in zip(*parts, strict=True))
    if not len(labels_P):
        return CatalogueWeights(0.0, 0.0, 0.0, 0, len(users.labels), step)

    found = weigh(new_PC, known_PC, labels_P)
    weight = found.new / found.known if found.counts and found.known > 0 else 0.0
    return CatalogueWeights(weight, found.gain, found.error, len(labels_P), len(users.labels), step)


def rank_catalogue(known: Expert, new: Expert, users: AskedUsers, weights: CatalogueWeights) -> CatalogueRanks:
    """Ranks of the next items by each expert and by their sum."""
    ranks = []
    for block in users.blocks():
        known_BN, new_BN, labels_B = users.masked(known, block), users.masked(new, block), users.labels[block]
        orders = (known_BN, new_BN, weights.combined(known_BN, new_BN))
        ranks.append(np.stack([score_ranks(scores, labels_B, listed=False) for scores in orders]))
    return CatalogueRanks(*np.concatenate(ranks, axis=1))


def outcome_of(ranks: CatalogueRanks, weights: CatalogueWeights) -> CatalogueOutcome:
    """Metrics with intervals from the ranks of the test users."""
    return CatalogueOutcome(compare_ranks(ranks.known, ranks.final), compare_ranks(ranks.known, ranks.new), weights)


def _candidates(
    known_BN: NDArray[np.float64], new_BN: NDArray[np.float64], labels_B: NDArray[np.int64], most_excluded: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Scores [P, C] of the candidates by both, and the index of the label, for the users who have it among them."""
    # In a small catalogue, as many as every user has left.
    available = known_BN.shape[1] - 1 - most_excluded
    of_known = max(min(_OF_KNOWN, available), 0)
    of_new = max(min(_OF_NEW, available - of_known), 0)

    first_BC = _best(known_BN, of_known)
    others_BN = new_BN.copy()
    np.put_along_axis(others_BN, first_BC, -np.inf, axis=1)
    items_BC = np.concatenate([first_BC, _best(others_BN, of_new)], axis=1)

    is_label_BC = items_BC == labels_B[:, None]
    has_label = is_label_BC.any(axis=1)
    scores = (np.take_along_axis(one, items_BC, axis=1)[has_label] for one in (known_BN, new_BN))
    return *scores, is_label_BC[has_label].argmax(axis=1)


def _best(scores_BN: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """[B, count] columns of the highest scores, in any order."""
    if not count:
        return np.zeros((len(scores_BN), 0), dtype=np.int64)
    return np.argpartition(-scores_BN, count - 1, axis=1)[:, :count]
