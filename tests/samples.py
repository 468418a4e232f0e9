"""Small prepared data and candidates, made in memory, for tests of the stages after `data`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llamarec.data.prepared import PreparedData, Sequences
from llamarec.retriever.candidates import Candidates
from llamarec.vocabulary import SPLITS, Split

_WORDS = (
    "Red",
    "Night",
    "The",
    "Garden",
    "of",
    "Lost",
    "Café",
    "II",
    "Moon & Sun",
    "(1995)",
    "¿Qué?",
    "Star-Ship",
)


def make_data(
    num_users: int = 30,
    num_items: int = 80,
    *,
    has_repeats: bool = False,
    seed: int = 0,
    folder: Path = Path("data"),
) -> PreparedData:
    """Users with 5 to 14 items each, leave-one-out."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 15, size=num_users)
    items = [rng.choice(num_items, size=n, replace=has_repeats) + 1 for n in lengths]
    titles = ["", *(" ".join(rng.choice(_WORDS, size=3)) + f" {i}" for i in range(1, num_items + 1))]
    return PreparedData(
        dataset_code="made-up",
        folder=folder,
        sequences=Sequences(
            item_ids=np.concatenate(items).astype(np.int32),
            timestamps=np.arange(int(lengths.sum()), dtype=np.int64),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            train_ends=(lengths - 2).astype(np.int32),
            validation_ends=(lengths - 1).astype(np.int32),
        ),
        titles=titles,
        items=["", *(f"i{i}" for i in range(1, num_items + 1))],
        users=[f"u{i}" for i in range(num_users)],
        has_repeats=has_repeats,
        fingerprint="0" * 64,
        manifest={
            "dataset_code": "sample",
            "num_interactions": int(lengths.sum()),
            "has_repeats": False,
            "options": {},
            "inputs": {},
            "outputs": {},
            "fingerprint": "f",
        },
    )


def make_candidates(
    data: PreparedData, *, k: int = 20, coverage: float = 0.7, seed: int = 0
) -> dict[Split, Candidates]:
    """For each user k items that are not the label, and for a share of them the label at a random place."""
    return {
        split: _of_split(data, split, k, coverage, np.random.default_rng([seed, i])) for i, split in enumerate(SPLITS)
    }


def _of_split(data: PreparedData, split: Split, k: int, coverage: float, rng: np.random.Generator) -> Candidates:
    users = data.sequences.users_with_label(split)
    labels = np.array([data.sequences.label(int(user), split) for user in users], dtype=np.int32)
    items = np.stack([rng.permutation(np.setdiff1d(np.arange(1, data.num_items + 1), [label]))[:k] for label in labels])
    ranks = np.where(rng.random(len(users)) < coverage, rng.integers(1, k + 1, size=len(users)), 0)
    covered = ranks > 0
    items[covered, ranks[covered] - 1] = labels[covered]
    return Candidates(
        user_ids=users,
        item_ids=items.astype(np.int32),
        scores=np.tile(np.linspace(3, 1, k, dtype=np.float32), (len(users), 1)),
        label_ids=labels,
        label_ranks=ranks.astype(np.int32),
    )
