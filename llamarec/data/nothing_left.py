"""What is said where the recipe leaves nothing: which step dropped the last interactions, and what there was."""

from __future__ import annotations

from typing import Final

import polars as pl

from llamarec.data.config import DataConfig
from llamarec.data.near_keys import near_keys
from llamarec.errors import DataError
from llamarec.vocabulary import ITEM, USER

_MOST_ROUNDS: Final = 6


def nothing_left(
    interactions: pl.DataFrame, titled: pl.DataFrame, with_title: pl.DataFrame, config: DataConfig
) -> DataError:
    """The error for a data set of which nothing is left.

    Args:
        interactions: All of them.
        titled: Items with a title.
        with_title: Interactions with items that have one.
        config: Core sizes, and the name of the data set.
    """
    name = config.dataset_code
    if interactions.is_empty():
        return DataError(f"{name}: the raw files have no interactions")

    keys = "--untitled_items key takes keys as titles; the language model then sees nothing else of an item"
    if titled.is_empty():
        return DataError(
            f"{name}: no item has a title",
            expected="titles: they are what the language model sees of items",
            found=f"{interactions[ITEM].n_unique():,} items, for example {interactions[ITEM][0]!r}",
            hint=keys,
        )

    untitled = interactions.height - with_title.height
    near = near_keys(interactions[ITEM].unique(maintain_order=True).cast(pl.String), titled[ITEM]) if untitled else []
    if with_title.is_empty():
        return DataError(
            f"{name}: none of the {interactions.height:,} interactions has an item with a title",
            expected="the same item keys in interactions and titles",
            found=near,
            hint=f"where these are the right files, {keys}",
        )

    least = f"{config.min_user_interactions} interactions, items with {config.min_item_interactions}"
    return DataError(
        f"{name}: the k-core of {with_title.height:,} interactions is empty",
        expected=f"users with at least {least}",
        found=[*_rounds(with_title, config), *(near if with_title.height < untitled else [])],
        hint=[
            "lower --min_user_interactions and --min_item_interactions",
            *(["lower --min_rating"] if config.least_rating is not None else []),
            *([f"--untitled_items key keeps {untitled:,} more, of items without a title"] if untitled else []),
        ],
    )


def _rounds(interactions: pl.DataFrame, config: DataConfig) -> list[str]:
    """What is left after each round of the k-core, of which each drops users and then items."""
    left = interactions.select(USER, ITEM)
    lines = [f"{left[USER].n_unique():,} users and {left[ITEM].n_unique():,} items"]
    num_rounds = 0
    while not left.is_empty():
        of_users = left.filter(pl.len().over(USER) >= config.min_user_interactions)
        left = of_users.filter(pl.len().over(ITEM) >= config.min_item_interactions)
        num_rounds += 1
        if num_rounds <= _MOST_ROUNDS:
            enough = f"{of_users[USER].n_unique():,} users have enough, and of theirs {left[ITEM].n_unique():,} items"
            lines.append(f"round {num_rounds}: {enough}")

    return [*lines, *([f"nothing after {num_rounds:,} rounds"] if num_rounds > _MOST_ROUNDS else [])]
