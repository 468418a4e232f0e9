"""Checks before a training: the options fit the data, and the data has users for every stage."""

from __future__ import annotations

from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError, DataError
from llamarec.retriever.candidates import but_for_a_few, most_candidates, num_left
from llamarec.retriever.config import RetrieverConfig
from llamarec.vocabulary import SPLITS

_MORE_ITEMS = "a lower --min_item_interactions, which keeps more items"


def check_top_k(data: PreparedData, config: RetrieverConfig, *, flag: str = "--top_k") -> None:
    """Checks that all but a few users have as many possible candidates as are asked for.

    Args:
        data: Prepared data.
        config: Options.
        flag: The flag that gave the number.

    Raises:
        ConfigError: more users have fewer.
    """
    wanted, most, num_fewer = config.top_k, data.num_items, data.num_users
    if config.excludes(data.has_repeats):
        for split in SPLITS:
            if len(users := data.sequences.users_with_label(split)):
                left = num_left(data, split, wanted)[users]
                most, num_fewer = min(most, but_for_a_few(left)), int((left < wanted).sum())

    if wanted > most:
        # One candidate leaves nothing to rank.
        fits = most >= 2
        raise ConfigError(
            f"{flag} {wanted}: too many users have fewer candidates",
            expected=f"at most {most}" if fits else "more items, of which users took fewer",
            found=f"{data.num_items:,} items; {num_fewer:,} of {data.num_users:,} users have fewer than {wanted} left",
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
        DataError: one of them has no user, or users have nearly every item.
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
            expected="items outside the history of all but a few users",
            found=f"{data.num_items:,} items, and a user with {int(data.sequences.train_ends.max()):,} of them",
            hint=_MORE_ITEMS,
        )
