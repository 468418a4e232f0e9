"""Steps on coded keys, against what one would write first; whatever number of rows is worked on together."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamarec.data import coded
from llamarec.data.coded import among, by_users, dense, first_of_copies, ids_of, in_core, with_codes
from llamarec.data.lines import KEY

_ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2)), max_size=40)
_AT_ONCE = st.sampled_from([1, 3, 1_000])


def _table(rows: list[tuple[int, int, int]]) -> pl.DataFrame:
    names = {"user": pl.UInt32, "item": pl.UInt32, "timestamp": pl.Int64}
    return pl.DataFrame(rows, schema=names, orient="row")


@given(rows=_ROWS, at_once=_AT_ONCE)
def test_the_first_of_copies(rows: list[tuple[int, int, int]], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(coded, "_ROWS_AT_ONCE", at_once)
        found = first_of_copies(_table(rows), ["user", "item", "timestamp"])
    assert found.tolist() == [row not in rows[:number] for number, row in enumerate(rows)]


@given(rows=_ROWS, at_once=_AT_ONCE, least=st.tuples(st.integers(1, 4), st.integers(1, 4)), data=st.data())
def test_the_core_of_some_rows(
    rows: list[tuple[int, int, int]], at_once: int, least: tuple[int, int], data: st.DataObject
) -> None:
    flags = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    expected = [row for row, kept in zip(rows, flags, strict=True) if kept]
    while True:
        users, items = (Counter(row[place] for row in expected) for place in (0, 1))
        kept_rows = [row for row in expected if users[row[0]] >= least[0] and items[row[1]] >= least[1]]
        if len(kept_rows) == len(expected):
            break
        expected = kept_rows

    table = _table(rows)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(coded, "_ROWS_AT_ONCE", at_once)
        found = in_core(table["user"].to_numpy(), table["item"].to_numpy(), np.array(flags, np.bool_), *least)
    assert [row for row, kept in zip(rows, found.tolist(), strict=True) if kept] == expected


@given(keys=st.lists(st.sampled_from(["b", "a", "é", "", "c"]), min_size=1, max_size=20))
def test_codes_and_their_texts(keys: list[str]) -> None:
    """Of columns of text and of coded ones, with other codes in the process."""
    other = pl.Series(["z", "c", "a"]).cast(KEY)
    for kind in (pl.String, KEY):
        table = pl.DataFrame({"user": pl.Series(keys, dtype=kind), "item": pl.Series(keys[::-1], dtype=kind)})
        numbers, users, items = with_codes(table)
        assert users.decoded(numbers["user"].to_numpy())["user"].to_list() == keys
        assert items.table["item"].to_list() == list(dict.fromkeys(keys[::-1]))
        wanted = users.codes_of(pl.Series(["a", "nobody"]))
        assert among(numbers["user"].to_numpy(), wanted).tolist() == [key == "a" for key in keys]
    assert other.to_list() == ["z", "c", "a"]


@given(codes=st.lists(st.integers(0, 9), max_size=30), at_once=_AT_ONCE)
def test_ids_by_first_appearance(codes: list[int], at_once: int) -> None:
    ids, known = dense(np.array(codes, np.uint32), first=1)
    order = list(dict.fromkeys(codes))
    assert ids.tolist() == [order.index(code) + 1 for code in codes]
    assert known.tolist() == order
    assert ids_of(np.array(order, np.uint32), known, first=5).tolist() == list(range(5, 5 + len(order)))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(coded, "_ROWS_AT_ONCE", at_once)
        parts = list(by_users(ids)) if codes else []
    # Each row once, and the users of one part come before those of the next.
    assert sorted(row for part in parts for row in np.flatnonzero(part).tolist()) == list(range(len(codes)))
    found = [ids[part].tolist() for part in parts if part.any()]
    assert all(max(before) < min(after) for before, after in pairwise(found))
