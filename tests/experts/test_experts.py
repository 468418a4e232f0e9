"""Each expert against its formula, written down plainly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.experts.build import ExpertBuilder
from llamarec.experts.known import Known, known_at, known_now, known_of_users, queries_of
from llamarec.experts.neighbours import Neighbours
from llamarec.experts.pair_counts import most_in_each_row
from llamarec.experts.popularity import Popularity, Trend
from llamarec.experts.queries import Queries, blocks_of
from llamarec.experts.returns import Returns
from llamarec.experts.titles import Titles
from llamarec.experts.transitions import Transitions
from tests.samples import make_data

DAY = 86_400


@pytest.fixture(scope="module", params=[False, True], ids=["new items", "repeats"])
def data(request: pytest.FixtureRequest) -> PreparedData:
    made = make_data(num_users=40, num_items=25, has_repeats=request.param)
    days = np.random.default_rng(1).integers(0, 700, len(made.sequences.item_ids)) * DAY
    for user in range(made.num_users):
        part = slice(made.sequences.offsets[user], made.sequences.offsets[user + 1])
        days[part] = np.sort(days[part])
    return replace(made, sequences=replace(made.sequences, timestamps=days))


@pytest.fixture(scope="module")
def queries(data: PreparedData) -> Queries:
    return queries_of(data, "validation", data.sequences.users_with_label("validation"))


def _sequences(known: Known) -> list[list[int]]:
    return [known.items[known.users == user].tolist() for user in np.unique(known.users)]


def _by_history(
    queries: Queries, table: NDArray[np.float64], decay: float, remembered: int = 20
) -> NDArray[np.float64]:
    sums = np.zeros((len(queries.histories), len(table)))
    for row, history in enumerate(queries.histories):
        for age, item in enumerate(reversed(history.tolist()[-remembered:])):
            sums[row] += decay**age * table[item]
    return sums


def test_transitions(data: PreparedData, queries: Queries) -> None:
    known = known_at(data, "validation")
    table, counts = np.zeros((26, 26)), known.counts()
    for items in _sequences(known):
        for first in range(len(items)):
            for distance in (1, 2, 3):
                if first + distance < len(items):
                    table[items[first], items[first + distance]] += 1 / distance
    table /= np.sqrt(np.outer(counts + 1, counts + 1))

    found = Transitions(known).scores(queries)
    np.testing.assert_allclose(found, np.log1p(30 * _by_history(queries, table, 0.8)), rtol=1e-5, atol=1e-6)


def test_neighbours(data: PreparedData, queries: Queries) -> None:
    known = known_at(data, "validation")
    table, counts = np.zeros((26, 26)), known.counts()
    for items in _sequences(known):
        for first, one in enumerate(items):
            for other in items[first + 1 :]:
                if one != other:
                    table[one, other] += 1 / np.log2(2 + len(items))
                    table[other, one] += 1 / np.log2(2 + len(items))
    table /= np.sqrt(np.outer(counts + 10, counts + 10))

    found = Neighbours(known).scores(queries)
    np.testing.assert_allclose(found, np.log1p(30 * _by_history(queries, table, 0.7)), rtol=1e-5, atol=1e-6)


def test_titles(queries: Queries, data: PreparedData) -> None:
    titles = Titles(data.titles)
    words = titles.words.toarray().astype(np.float64)
    wanted = np.log1p(3 * _by_history(queries, words @ words.T, 0.8))
    np.testing.assert_allclose(titles.scores(queries), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("days", [7.0, 90.0])
def test_a_trend_counts_nothing_later(data: PreparedData, queries: Queries, days: float) -> None:
    known = known_at(data, "test")
    found = Trend(known, days, "trend").scores(queries)
    for row, moment in enumerate(queries.times.tolist()):
        is_before = known.times <= moment
        items, ages = known.items[is_before], (moment - known.times[is_before]) / DAY
        recent = np.bincount(items, np.exp(-ages / days), minlength=26)
        wanted = np.log((recent + 0.05) / (np.bincount(items, minlength=26) + 5))
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-5)

    # The same where what is later is not there at all.
    moment = int(np.median(queries.times))
    is_before = known.times <= moment
    cut = Known(known.items[is_before], known.times[is_before], known.users[is_before], known.num_items, known.asked)
    at_that_moment = Queries(queries.histories[:3], np.full(3, moment))
    seen = Trend(known, days, "trend").scores(at_that_moment)
    np.testing.assert_array_equal(seen, Trend(cut, days, "trend").scores(at_that_moment))


def test_popularity_and_returns(data: PreparedData, queries: Queries) -> None:
    known = known_now(data)
    assert known.counts().sum() == data.num_interactions
    np.testing.assert_allclose(Popularity(known).scores(queries)[0], np.log1p(known.counts()), rtol=1e-6)

    table = np.eye(26)
    wanted = np.log1p(3 * _by_history(queries, table, 0.9, 50))
    np.testing.assert_allclose(Returns(25).scores(queries), wanted, rtol=1e-5, atol=1e-6)


def test_blocks_do_not_change_a_score(data: PreparedData, queries: Queries) -> None:
    for expert in ExpertBuilder(data).experts(known_at(data, "validation")):
        whole = expert.scores(queries)
        parts = [expert.scores(queries.part(start, start + 7)) for start in range(0, len(queries.histories), 7)]
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, err_msg=expert.name)
        assert np.isfinite(whole).all(), expert.name


def test_a_million_items_take_small_blocks() -> None:
    assert [part.stop - part.start for part in blocks_of(20, 1_000_000)] == [8, 8, 4]
    assert list(blocks_of(300, 100)) == [slice(0, 256), slice(256, 300)]


def test_rows_keep_their_largest_values(data: PreparedData) -> None:
    table = Neighbours(known_now(data)).table
    few = most_in_each_row(table.copy(), 3).toarray()
    for row, values in zip(few, table.toarray(), strict=True):
        np.testing.assert_array_equal(np.sort(row)[::-1][:3], np.sort(values)[::-1][:3])
        assert np.count_nonzero(row) <= 3


# ---- What may be counted ----


def test_what_is_known_without_a_common_moment(data: PreparedData) -> None:
    sequences = data.sequences
    wanted = [item for user in range(data.num_users) for item in sequences.train(user).tolist()]
    for split in ("validation", "test"):
        assert known_at(data, split).items.tolist() == wanted

    users = sequences.users_with_label("test")
    asked = queries_of(data, "test", users)
    lasts = [sequences.timestamps[sequences.offsets[user] + sequences.validation_ends[user] - 1] for user in users]
    assert asked.times.tolist() == lasts


def test_after_a_cut_everything_before_it_is_known(data: PreparedData) -> None:
    temporal = replace(data, manifest={**data.manifest, "options": {"split": "temporal"}})
    sequences = data.sequences
    wanted = [item for user in range(data.num_users) for item in sequences.history(user, "test").tolist()]
    assert known_at(temporal, "test").items.tolist() == wanted
    assert known_at(temporal, "validation").items.tolist() == known_at(data, "validation").items.tolist()
    assert len(set(queries_of(temporal, "test", sequences.users_with_label("test")).times.tolist())) == 1


def test_a_training_prompt_does_not_count_its_own_user(data: PreparedData) -> None:
    users = np.arange(data.num_users) % 2 == 0
    assert set(known_of_users(data, users).users.tolist()) == set(np.flatnonzero(users).tolist())


def test_times_that_only_order_have_no_trend() -> None:
    builder = ExpertBuilder(make_data())
    assert not [name for name in builder.names if name.startswith("trend")]
    assert "returns" not in builder.names
    assert "returns" in ExpertBuilder(make_data(has_repeats=True)).names
