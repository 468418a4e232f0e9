"""Interactions whose keys are numbers: the steps of the recipe that would take many copies of a large table.

Every step takes a few bytes for a row beyond the table itself, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.data.lines import KEY
from llamarec.vocabulary import ITEM, USER

_ROWS_AT_ONCE: Final = 1_000_000
"""Rows that a step works on together."""

Codes = NDArray[np.uint32]


class Keys(NamedTuple):
    """The texts of coded keys: `code` and, under the column's name, the text; by first appearance."""

    table: pl.DataFrame
    name: str

    def decoded(self, codes: Codes, ids: str = "", *, first: int = 0) -> pl.DataFrame:
        """The texts of codes; before them, where `ids` names their column, numbers from `first` on."""
        known = self.table["code"].to_numpy()
        position = np.zeros(_num_codes(known, codes), np.uint32)
        position[known] = np.arange(len(known), dtype=np.uint32)
        texts = self.table[self.name].gather(position[codes])
        numbers = pl.Series(ids, np.arange(first, first + len(codes), dtype=np.int32))
        return pl.DataFrame([numbers, texts] if ids else [texts])

    def codes_of(self, texts: pl.Series) -> Codes:
        """The codes of those texts that are keys here."""
        wanted = texts.alias(self.name).to_frame()
        return self.table.join(wanted, on=self.name, how="semi")["code"].to_numpy()


def with_codes(interactions: pl.DataFrame) -> tuple[pl.DataFrame, Keys, Keys]:
    """The interactions with numbers in the place of keys, and the texts of users and items."""
    columns = [interactions[name].cast(KEY) for name in (USER, ITEM)]
    users, items = (_keys_of(column) for column in columns)
    return interactions.with_columns(column.to_physical() for column in columns), users, items


def _keys_of(column: pl.Series) -> Keys:
    distinct = column.unique(maintain_order=True)
    return Keys(pl.DataFrame([distinct.to_physical().alias("code"), distinct.cast(pl.String)]), column.name)


def codes_of(column: pl.Series) -> Codes:
    """A column of keys as numbers; equal keys have equal numbers."""
    return (column if column.dtype == pl.UInt32 else column.cast(KEY).to_physical()).to_numpy()


def first_of_copies(interactions: pl.DataFrame, columns: Sequence[str]) -> NDArray[np.bool_]:
    """Which interactions are no exact copy of an earlier one; `columns` begin with the user."""
    users = codes_of(interactions[columns[0]])
    num_parts = 1 + interactions.height // _ROWS_AT_ONCE
    is_first = np.ones(interactions.height, np.bool_)

    # A copy has the same user, so that each part of the users has all of theirs.
    for part in range(num_parts):
        rows = np.flatnonzero(users % num_parts == part).astype(np.uint32)
        values = interactions.select(columns)[rows]
        # Hashes are compared quickly, and nearly all of them differ.
        alike = values.hash_rows().is_duplicated().to_numpy()
        if alike.any():
            exact = values.filter(pl.Series(alike)).select(pl.struct(columns).is_first_distinct())
            is_first[rows[alike]] = exact.to_series().to_numpy()

    return is_first


def among(codes: Codes, wanted: Codes) -> NDArray[np.bool_]:
    """Which codes are among the wanted ones."""
    is_wanted = np.zeros(_num_codes(codes, wanted), np.bool_)
    is_wanted[wanted] = True
    return is_wanted[codes]


def in_core(users: Codes, items: Codes, kept: NDArray[np.bool_], min_user: int, min_item: int) -> NDArray[np.bool_]:
    """Which of the kept interactions are in their k-core: all users and items have enough of them; repeats count."""
    kept = kept.copy()
    num_kept = -1
    while num_kept != (num_kept := int(kept.sum())):
        for codes, least in ((users, min_user), (items, min_item)):
            kept &= (_counts(codes, kept) >= least)[codes]
    return kept


def dense(codes: Codes, *, first: int) -> tuple[NDArray[np.int32], Codes]:
    """Ids counted from `first` by first appearance, and the codes in the order of their ids."""
    distinct = pl.Series(codes).unique(maintain_order=True).to_numpy()
    return ids_of(codes, distinct, first=first), distinct


def ids_of(codes: Codes, known: Codes, *, first: int) -> NDArray[np.int32]:
    """Ids of codes, all of which are among the known ones; ids are counted from `first` in the order of these."""
    ids = np.zeros(_num_codes(codes, known), np.int32)
    ids[known] = np.arange(first, first + len(known), dtype=np.int32)
    return ids[codes]


def by_users(ids: NDArray[np.int32]) -> Iterator[NDArray[np.bool_]]:
    """Parts of the rows, each with all rows of some consecutive user ids."""
    counts = np.bincount(ids)
    part_of_user = np.cumsum(counts) // _ROWS_AT_ONCE
    starts = [0, *(np.flatnonzero(np.diff(part_of_user)) + 1).tolist(), len(counts)]
    for start, end in pairwise(starts):
        yield (ids >= start) & (ids < end)


def _counts(codes: Codes, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    counts = np.zeros(_num_codes(codes), np.int64)
    for start in range(0, len(codes), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        counts += np.bincount(codes[part][kept[part]], minlength=len(counts))
    return counts


def _num_codes(*codes: Codes) -> int:
    return max(int(some.max(initial=0)) for some in codes) + 1
