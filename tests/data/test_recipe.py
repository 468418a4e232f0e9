"""The recipe by hand: k-core, ids, order, splits."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamarec.data.config import DataConfig
from llamarec.data.recipe import build, clean_titles, k_core
from llamarec.errors import DataError

SMALL = DataConfig(min_user_interactions=1, min_item_interactions=1)


def _interactions(rows: list[tuple[str, str, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64}, orient="row")


def _titles(*items: str) -> pl.DataFrame:
    return pl.DataFrame({"item": items, "title": [f"Title {item}" for item in items]})


def test_the_core_is_taken_until_nothing_changes() -> None:
    # 2-core: item c has one user, so it goes; then user 3 has one item left, goes; then b has one user, goes, ...
    rows = _interactions([("1", "a", 1), ("2", "a", 1), ("3", "b", 1), ("3", "c", 1), ("1", "d", 1), ("2", "d", 1)])
    assert k_core(rows, 2, 2)["item"].to_list() == ["a", "a", "d", "d"]


def test_repeats_count_as_interactions() -> None:
    rows = _interactions([("1", "a", 1), ("1", "a", 2)])
    assert k_core(rows, 2, 2).height == 2


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_in_a_core_everyone_has_enough(pairs: list[tuple[int, int]], min_user: int, min_item: int) -> None:
    core = k_core(_interactions([(str(u), str(i), 0) for u, i in pairs]), min_user, min_item)
    for key, least in (("user", min_user), ("item", min_item)):
        assert all(count >= least for count in core[key].value_counts()["count"])


def test_untitled_items_go_before_the_core() -> None:
    # With item x, user 1 has two items; without it one, too few for a 2-core.
    rows = _interactions([("1", "a", 1), ("1", "x", 1), ("2", "a", 1), ("2", "b", 1), ("3", "a", 1), ("3", "b", 1)])
    items = pl.DataFrame({"item": ["a", "b", "x"], "title": ["A", "B", "  "]})
    histories = build(rows, items, DataConfig(min_user_interactions=2, min_item_interactions=2)).histories
    assert histories["user"].to_list() == ["2", "3"]


def test_ids_are_dense_in_order_of_first_appearance() -> None:
    rows = _interactions([("z", "q", 9), ("a", "p", 1), ("z", "p", 5)])
    histories, items, *_ = build(rows, _titles("p", "q"), SMALL)
    assert histories["user"].to_list() == ["z", "a"]
    assert histories["user_id"].to_list() == [0, 1]
    assert items.rows() == [(1, "q", "Title q"), (2, "p", "Title p")]


def test_sequences_are_by_time_with_ties_in_file_order() -> None:
    rows = _interactions([("1", "c", 5), ("1", "a", 3), ("1", "b", 5), ("1", "d", 3)])
    histories, items, *_ = build(rows, _titles(*"abcd"), SMALL)
    names = dict(items.select("item_id", "item").rows())
    assert [names[i] for i in histories["item_ids"][0]] == ["a", "d", "c", "b"]


def test_leave_one_out_takes_the_last_two() -> None:
    rows = _interactions([("1", item, time) for time, item in enumerate("abcde")] + [("2", "a", 0), ("2", "b", 1)])
    histories = build(rows, _titles(*"abcde"), SMALL).histories
    assert histories["train_end"].to_list() == [3, 2]
    assert histories["validation_end"].to_list() == [4, 2]


def test_a_temporal_split_cuts_all_users_at_the_same_times() -> None:
    # Times 0..9; 60% | 20% | 20%: the cuts are at times 6 and 8.
    rows = _interactions([("1", "a", t) for t in range(5)] + [("2", "a", t) for t in range(5, 10)])
    config = replace(SMALL, split="temporal", temporal_validation_share=0.2, temporal_test_share=0.2)
    histories = build(rows, _titles("a"), config).histories
    assert histories["train_end"].to_list() == [5, 1]
    assert histories["validation_end"].to_list() == [5, 3]


def test_titles_have_entities_resolved_and_single_spaces() -> None:
    items = pl.DataFrame({"item": ["a", "b", "a"], "title": [" Tom &amp;  Jerry\n", None, "second"]})
    assert clean_titles(items).select("item", "title").rows() == [("a", "Tom & Jerry")]


def test_what_was_left_out_is_counted() -> None:
    rows = _interactions([("1", "a", 1), ("1", "x", 1), ("2", "a", 1), ("2", "b", 1), ("3", "a", 1), ("3", "b", 1)])
    built = build(rows, _titles("a", "b"), DataConfig(min_user_interactions=2, min_item_interactions=2))
    assert built.raw == {"users": 3, "items": 3, "interactions": 6}
    assert built.untitled == 1


@pytest.mark.parametrize(
    ("rows", "items", "reason"),
    [
        ([], ["a"], "have no interactions"),
        ([("1", "a", 1)], ["b"], "has an item with a title"),
        ([("1", "a", 1)], ["a"], r"the k-core of 1 interactions is empty"),
    ],
)
def test_nothing_left_says_which_step_took_it(rows: list[tuple[str, str, int]], items: list[str], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        build(_interactions(rows), _titles(*items), DataConfig(dataset_code="x"))
