"""Raw interactions to split histories by LlamaRec's recipe: titled items, k-core, ids, order, split.

Every step keeps the order of the file unless it states another, so equal inputs give equal bytes.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.data.coded import (
    Codes,
    Keys,
    among,
    by_users,
    codes_of,
    dense,
    first_of_copies,
    ids_of,
    in_core,
    with_codes,
)
from llamarec.data.config import DataConfig
from llamarec.data.figures import (
    TIED,
    SharedTitles,
    Ties,
    UnseenTestItems,
    count_shared_titles,
    count_ties,
    count_unseen_test_items,
    share_taken_before,
)
from llamarec.data.markup import without_markup
from llamarec.data.nothing_left import nothing_left
from llamarec.data.source import FRACTION, ORDER
from llamarec.texts import normal
from llamarec.vocabulary import (
    ITEM,
    ITEM_ID,
    ITEM_IDS,
    TIMESTAMP,
    TIMESTAMPS,
    TITLE,
    TRAIN_END,
    USER,
    USER_ID,
    VALIDATION_END,
)

_HAD_MARKUP: Final = "had markup"
REPEATS_FROM: Final = 0.02
"""Share of validation labels taken before, from which items of the history are candidates.

Offering what people own costs the first ranks of everyone, about a fifth of NDCG@10 where nobody comes back; leaving it
out costs the labels that are such items, which a retriever ranks high. At the usual NDCG@10 of 0.05 to 0.1 both are
equal near this share.
"""


class Built(NamedTuple):
    """The tables of a prepared set, and counts of the raw data.

    histories: a row per user. items: a row per item. others: a row per dropped user, with those of the user's items
    that are not dropped. raw: users, items and interactions of the raw files. copies: interactions that were there
    before (same user, item and time). untitled: interactions that were dropped with an item that has no title.
    cleaned_titles: items from whose titles markup was removed. keys_as_titles: items whose key is their title.
    taken_before: share of the validation labels that their users had taken before. The others: see `figures`.
    """

    histories: pl.DataFrame
    items: pl.DataFrame
    others: pl.DataFrame
    raw: dict[str, int]
    copies: int
    untitled: int
    cleaned_titles: int
    keys_as_titles: int
    taken_before: float
    ties: Ties
    shared_titles: SharedTitles
    unseen_test_items: UnseenTestItems

    @property
    def has_repeats(self) -> bool:
        """Whether people come back to items, so that those of the history are candidates too."""
        return self.taken_before >= REPEATS_FROM


def clean_titles(items: pl.DataFrame) -> pl.DataFrame:
    """One title per item (the first): text without markup, white space single, in NFC; untitled items dropped.

    The column _HAD_MARKUP says of which titles a part was removed.
    """
    texts = [html.unescape(title) if title else "" for title in items[TITLE].to_list()]
    bare = [without_markup(text) for text in texts]
    had_markup = [one != text for one, text in zip(bare, texts, strict=True)]

    titles = pl.Series(TITLE, [normal(text) for text in bare], dtype=pl.String)
    cleaned = items.select(ITEM, titles, pl.Series(_HAD_MARKUP, had_markup, dtype=pl.Boolean))
    return cleaned.filter(pl.col(TITLE) != "").unique(ITEM, keep="first", maintain_order=True)


def with_keys(titled: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    """Titles of all items of the interactions: of those that have none, their keys."""
    untitled = interactions.select(pl.col(ITEM).unique(maintain_order=True)).join(
        titled, on=ITEM, how="anti", maintain_order="left"
    )
    keys = [normal(key) or key for key in untitled[ITEM].to_list()]
    return pl.concat([titled, untitled.with_columns(pl.Series(TITLE, keys, dtype=pl.String))])


def k_core(interactions: pl.DataFrame, min_user: int, min_item: int) -> pl.DataFrame:
    """Drops users and items with too few interactions until all have enough; repeats count."""
    users, items = (codes_of(interactions[name]) for name in (USER, ITEM))
    everything = np.ones(interactions.height, np.bool_)
    return interactions.filter(pl.Series(in_core(users, items, everything, min_user, min_item)))


def build(interactions: pl.DataFrame, items: pl.DataFrame, config: DataConfig) -> Built:
    """Histories and items, the tables of a prepared set.

    Args:
        interactions: user, item, timestamp, and FRACTION and ORDER where they are, in the file's order.
        items: item, title; an item without a row here has no title.
        config: Core sizes and split, and what becomes of items without a title.

    Raises:
        DataError: nothing is left; names the step that dropped it.
    """
    coded, users, keys = with_codes(interactions)
    titles = _titles(items, keys, config)
    rows = _rows(coded, keys.codes_of(titles.all[ITEM]), config)
    if not rows.in_core.any():
        raise nothing_left(interactions, titles.all, coded.filter(pl.Series(rows.with_title)), config)

    user_table, item_table, numbered = _numbered(rows)
    histories = _split(_histories(numbered, rows.time), config)
    items_of_set = keys.decoded(item_table, ITEM_ID, first=1)
    named = items_of_set.join(titles.all, on=ITEM, how="left", maintain_order="left")

    return Built(
        histories=users.decoded(user_table, USER_ID, first=0).hstack(histories.drop(USER_ID, TIED)),
        items=named,
        others=_others(rows, user_table, item_table, users),
        raw={"users": users.table.height, "items": keys.table.height, "interactions": interactions.height},
        copies=int((~rows.distinct).sum()),
        untitled=int(rows.distinct.sum() - rows.with_title.sum()),
        cleaned_titles=items_of_set.join(titles.had_markup, on=ITEM, how="semi").height,
        keys_as_titles=items_of_set.join(titles.own, on=ITEM, how="anti").height,
        taken_before=share_taken_before(histories),
        ties=count_ties(histories),
        shared_titles=count_shared_titles(named),
        unseen_test_items=count_unseen_test_items(histories),
    )


class _Titles(NamedTuple):
    """item, title: of items with a title of their own, and of all that count as titled. had_markup: items."""

    own: pl.DataFrame
    all: pl.DataFrame
    had_markup: pl.DataFrame


def _titles(items: pl.DataFrame, keys: Keys, config: DataConfig) -> _Titles:
    cleaned = clean_titles(items)
    own = cleaned.select(ITEM, TITLE)
    titled = with_keys(own, keys.table) if config.untitled_items == "key" else own
    return _Titles(own, titled, cleaned.filter(_HAD_MARKUP).select(ITEM))


class _Rows(NamedTuple):
    """Interactions with coded keys, and which of them each step of the recipe keeps.

    time: the columns by which a user's interactions are ordered. distinct: no copies of earlier ones; with_title: of
    these, those of items with a title; in_core: of these, those of the k-core.
    """

    coded: pl.DataFrame
    time: list[str]
    distinct: NDArray[np.bool_]
    with_title: NDArray[np.bool_]
    in_core: NDArray[np.bool_]

    def codes(self, name: str) -> Codes:
        """The column of keys as numbers."""
        return codes_of(self.coded[name])


def _rows(coded: pl.DataFrame, titled: Codes, config: DataConfig) -> _Rows:
    users, items = (codes_of(coded[name]) for name in (USER, ITEM))
    # Most tables have whole seconds.
    finer = [name for name in (FRACTION, ORDER) if name in coded.columns and bool((coded[name] != 0).any())]
    time = [TIMESTAMP, *finer]

    distinct = first_of_copies(coded, [USER, ITEM, *time])
    with_title = distinct & among(items, titled)
    core = in_core(users, items, with_title, config.min_user_interactions, config.min_item_interactions)
    return _Rows(coded, time, distinct, with_title, core)


def _numbered(rows: _Rows) -> tuple[Codes, Codes, pl.DataFrame]:
    """Users and items in the order of their ids; the interactions with USER_ID, ITEM_ID and times."""
    user_ids, users = dense(rows.codes(USER)[rows.in_core], first=0)
    item_ids, items = dense(rows.codes(ITEM)[rows.in_core], first=1)
    times = rows.coded.select(rows.time).filter(pl.Series(rows.in_core))
    return users, items, times.with_columns(pl.Series(USER_ID, user_ids), pl.Series(ITEM_ID, item_ids))


def _histories(numbered: pl.DataFrame, time: Sequence[str]) -> pl.DataFrame:
    """A row per user: item ids and times by time, ties in the file's order; TIED says which are such."""
    as_before = pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in (USER_ID, *time)).fill_null(False)
    tied = (as_before | as_before.shift(-1, fill_value=False)).alias(TIED)

    parts = []
    for rows in by_users(numbered[USER_ID].to_numpy()):
        ordered = numbered.filter(pl.Series(rows)).sort(USER_ID, *time, maintain_order=True)
        by_user = ordered.with_columns(tied, pl.col(USER_ID).set_sorted()).group_by(USER_ID, maintain_order=True)
        parts.append(by_user.agg(pl.col(ITEM_ID).alias(ITEM_IDS), pl.col(TIMESTAMP).alias(TIMESTAMPS), pl.col(TIED)))
    return pl.concat(parts, rechunk=True)


def _others(rows: _Rows, users: Codes, items: Codes, keys: Keys) -> pl.DataFrame:
    """Users with too few interactions for training and test, who can still get recommendations.

    Args:
        rows: All interactions.
        users: Codes of the users who have a history.
        items: Codes of the items of the set, in the order of their ids.
        keys: Texts of the users.
    """
    theirs = rows.with_title & among(rows.codes(ITEM), items) & ~among(rows.codes(USER), users)
    item_ids = pl.Series(ITEM_ID, ids_of(rows.codes(ITEM)[theirs], items, first=1))
    ordered = rows.coded.filter(pl.Series(theirs)).with_columns(item_ids).sort(rows.time, maintain_order=True)

    by_user = ordered.group_by(USER, maintain_order=True).agg(pl.col(ITEM_ID).alias(ITEM_IDS))
    return keys.decoded(by_user[USER].to_numpy()).hstack(by_user.drop(USER)).sort(USER)


def _split(histories: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    length = pl.col(ITEM_IDS).list.len().cast(pl.Int32)
    if config.split == "leave_one_out":
        # Fewer than three items (possible with a lower core) cannot be split in three: all are for training.
        enough = length >= 3
        train, validation = (
            pl.when(enough).then(length - 2).otherwise(length),
            pl.when(enough).then(length - 1).otherwise(length),
        )
    else:
        first, second = _cuts(histories, config)
        train, validation = (
            pl.col(TIMESTAMPS).list.eval(pl.element() < cut).list.sum().cast(pl.Int32) for cut in (first, second)
        )

    return histories.with_columns(train.alias(TRAIN_END), validation.alias(VALIDATION_END))


def _cuts(histories: pl.DataFrame, config: DataConfig) -> tuple[int, int]:
    times = histories[TIMESTAMPS].explode().sort()
    shares = (1 - config.temporal_validation_share - config.temporal_test_share, 1 - config.temporal_test_share)
    first, second = (int(times[min(int(times.len() * share), times.len() - 1)]) for share in shares)
    return first, second
