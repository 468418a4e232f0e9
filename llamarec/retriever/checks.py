"""Checks before a training: the options fit the data, and the data has users for every stage."""

from __future__ import annotations

import numpy as np

from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError, DataError
from llamarec.retriever.candidates import most_candidates
from llamarec.retriever.config import RetrieverConfig
from llamarec.vocabulary import SPLITS

_MORE_ITEMS = "a lower --min_item_interactions, which keeps more items"


def check_top_k(data: PreparedData, config: RetrieverConfig, *, flag: str = "--top_k") -> None:
    """Checks that every user has as many possible candidates as are asked for.

    Args:
        data: Prepared data.
        config: Options.
        flag: The flag that gave the number.

    Raises:
        ConfigError: a user has fewer.
    """
    excluded = 0
    if config.excludes(data.has_repeats):
        excluded = max(len(np.unique(data.sequences.history(user, "test"))) for user in range(data.num_users))

    most = data.num_items - excluded
    if config.top_k > most:
        # One candidate leaves nothing to rank.
        fits = most >= 2
        raise ConfigError(
            f"{flag} {config.top_k}: not every user has so many candidates",
            expected=f"at most {most}" if fits else f"more than {excluded + 1:,} items",
            found=f"{data.num_items:,} items, of which the longest history excludes {excluded:,}",
            hint=f"{flag} {most}, or {_MORE_ITEMS}" if fits else _MORE_ITEMS,
            retry_with=(flag, str(most)) if fits else (),
        )


def check_folds(data: PreparedData, config: RetrieverConfig) -> None:
    """Checks that every fold has a user.

    Raises:
        ConfigError: there are more folds than users.
    """
    most = int((data.sequences.train_ends >= 2).sum())
    enough = min(2, most)

    if config.hard_negative_folds > most:
        raise ConfigError(
            f"--hard_negative_folds {config.hard_negative_folds}: more folds than users to train on",
            expected=f"at most {most:,}; two are enough, since each fold costs another training",
            hint=f"--hard_negative_folds {enough}",
            retry_with=("--hard_negative_folds", str(enough)),
        )


def check_histories(data: PreparedData) -> None:
    """Checks that training, validation and test have users, and that a ranker has wrong candidates.

    Raises:
        DataError: one of them has no user, or a user has nearly every item.
    """
    users: dict[str, int] = {split: len(data.sequences.users_with_label(split)) for split in SPLITS}
    users["training"] = int((data.sequences.train_ends >= 2).sum())
    empty = [name for name, count in users.items() if not count]

    if empty:
        raise DataError(
            f"{data.dataset_code}: no user for {' and '.join(empty)}",
            expected="users with four items or more: two for training, one for validation, one for the test",
            found=f"{data.num_users:,} users, {data.num_interactions:,} interactions",
            hint="more interactions per user, or (with --split temporal) other --temporal_validation_share and "
            "--temporal_test_share",
        )

    if most_candidates(data) < 2:
        raise DataError(
            f"{data.dataset_code}: no other item is left as a wrong candidate for a ranker",
            expected="items outside the history of every user",
            found=f"{data.num_items:,} items, and a user with {int(data.sequences.train_ends.max()):,} of them",
            hint=_MORE_ITEMS,
        )
