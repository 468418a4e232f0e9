"""Which column is which: by the names that other tools and data sets use, or by the user's flags.

A guess that could be another one is refused: a wrong column is seen nowhere later.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from llamarec.errors import ConfigError, DataError
from llamarec.vocabulary import ITEM, RATING, TIMESTAMP, TITLE, USER

_KNOWN: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    USER: (("user", "user_id", "userid", "uid", "reviewerid", "customer_id", "visitorid"), ("session_id",)),
    ITEM: (("item", "item_id", "itemid", "iid", "movieid", "asin", "parent_asin", "product_id", "business_id", "sku"),),
    TIMESTAMP: (("timestamp", "datetime", "unixreviewtime", "created_at", "ts", "event_time"), ("date", "time")),
    RATING: (
        ("rating", "ratings", "stars", "star_rating", "overall", "score", "review_rating", "review_score"),
        ("user_rating", "review_overall"),
    ),
    TITLE: (("title", "item_title", "movie_title", "product_title", "item_name"), ("name",)),
}
"""By column, groups of names; a group counts where no name of an earlier one is there."""

# Checked from so many items on; a share above this is no matter of a few spellings.
_FEW_ITEMS: Final = 10
_MOST: Final = 0.5


def find_columns(
    path: Path, columns: Sequence[str], chosen: Mapping[str, str], shared: str = "", optional: Container[str] = ()
) -> dict[str, str]:
    """The table's names of the columns.

    Args:
        path: Of the table, for an error.
        columns: All of its names.
        chosen: By column, the name that a flag gives; "" where it is to be recognised.
        shared: Name of the item's key where two tables share one.
        optional: Columns that are left out where none is recognised.

    Raises:
        ConfigError: a column is not found, or several could be it; names the flags.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for name, given in chosen.items():
        candidates = [shared] if name == ITEM and shared and not given else _candidates(name, given, columns)
        if not (candidates or given) and name in optional:
            continue
        if len(candidates) == 1:
            found[name] = candidates[0]
        else:
            problems.append(_problem(name, given, candidates, columns))

    taken: dict[str, str] = {}
    for name, column in found.items():
        if column in taken:
            problems.append(f"{column!r} is already the {taken[column]} column: --{name}_column NAME")
        taken.setdefault(column, name)

    if problems:
        named = [column or "(no name)" for column in columns]
        raise ConfigError(f"{path}: " + "\n    ".join(problems), found=f"the columns {', '.join(named)}")
    return found


def is_known(name: str, column: str) -> bool:
    """Whether a table's column is recognised as `name` (USER, ITEM, ...)."""
    return any(column.lower() in group for group in _KNOWN[name])


def shared_key(first: Sequence[str], second: Sequence[str]) -> str:
    """The one name of the item's key that both tables have; "" where none or several are in both."""
    both = [name for name in _candidates(ITEM, "", first) if name in _candidates(ITEM, "", second)]
    return both[0] if len(both) == 1 else ""


def check_titles(items: pl.DataFrame, where: str, flag: str) -> None:
    """Checks that a guessed column holds titles of items: not of reviews, nor names of customers.

    Args:
        items: item, title; a row for each interaction or item.
        where: Table and column, for an error.
        flag: That names the column.

    Raises:
        DataError: most items have several titles, or most have one and the same.
    """
    titles = items.drop_nulls(TITLE).unique([ITEM, TITLE])
    seen = items.group_by(ITEM).len().filter(pl.col("len") > 1).select(ITEM)
    num_titles = titles.join(seen, on=ITEM, how="semi").group_by(ITEM).len()["len"]
    several = float((num_titles > 1).mean() or 0)  # type: ignore[arg-type]  # of booleans
    if len(num_titles) >= _FEW_ITEMS and several > _MOST:
        example = titles.filter(pl.len().over(ITEM) > 1).sort(ITEM, TITLE)
        shown = example.filter(pl.col(ITEM) == example[ITEM][0])[TITLE].head(3).to_list()
        raise DataError(
            f"{where}: {several:.0%} of the items have several titles there, as if it named something else",
            expected="one title for each item",
            found=f"item {example[ITEM][0]!r} with " + ", ".join(map(repr, shown)),
            hint=[
                f"{flag} NAME, or a second table: --items_file FILE",
                f"or take each item's first: {flag} with this name",
            ],
        )

    firsts = titles.unique(ITEM, keep="first", maintain_order=True)
    most = firsts[TITLE].value_counts(sort=True).head(1)
    if firsts.height >= _FEW_ITEMS and most["count"][0] > _MOST * firsts.height:
        raise DataError(
            f"{where}: {most['count'][0]:,} of {firsts.height:,} items have the title {most[TITLE][0]!r}",
            expected="a title that tells an item from others",
            hint=f"{flag} NAME; to take these all the same, {flag} with this name",
        )


def _candidates(name: str, given: str, columns: Sequence[str]) -> list[str]:
    """Columns that could be meant; two of one name are two."""
    if given:
        return [column for column in columns if column == given]

    for group in _KNOWN[name]:
        if there := [column for column in columns if column.lower() in group]:
            return there
    return []


def _problem(name: str, given: str, candidates: Sequence[str], columns: Sequence[str]) -> str:
    flag = f"--{name}_column"
    if len(set(candidates)) == 1:
        return f"{len(candidates)} columns are called {candidates[0]!r}: rename all but one of them"
    if candidates:
        return f"several columns could be the {name}: " + " or ".join(f"{flag} {one}" for one in candidates)

    named = [column for column in columns if column]
    near = difflib.get_close_matches(given or name, named, n=1, cutoff=0.4)
    asked = f"no column {given!r}" if given else f"no column looks like the {name}"
    if name == TITLE and not given:
        return (
            f"{asked}: --title_column NAME, or titles in a second table: --items_file FILE, or keys as titles: "
            "--untitled_items key"
        )
    return f"{asked}: {flag} {near[0] if near else 'NAME'}"
