"""The learning rate follows the share of the training that is done: no jump, one end, warm-up in samples."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llamarec.checkpoints.resume.schedule import ScheduleMap, resumed
from llamarec.checkpoints.storage.json_shapes import shaped

FRESH = ScheduleMap(total=100, end=100)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[ScheduleMap, int]]:
    """Maps of a training that was resumed several times, each with the step at which it began."""
    current, step, batch = ScheduleMap(draw(st.integers(2, 300)), 0), 0, draw(st.integers(1, 64))
    current = ScheduleMap(current.total, current.total)
    found = [(current, 0)]
    for _ in range(draw(st.integers(1, 4))):
        assume(step < current.end - 1)
        step = draw(st.integers(step, current.end - 1))
        new_batch = draw(st.integers(1, 64))
        warmup = draw(st.integers(0, current.total - 1))
        to_go = draw(st.integers(1, 300))
        current = resumed(current, step, to_go, warmup=warmup, batch_before=batch, batch=new_batch)
        batch = new_batch
        found.append((current, step))
    return found


@given(history=histories())
def test_it_does_not_jump_and_ends_at_the_end(history: list[tuple[ScheduleMap, int]]) -> None:
    for (before, _), (after, step) in pairwise(history):
        assert after(step) == pytest.approx(before(step), rel=1e-9, abs=1e-9)
        places = [after(s) for s in range(step, after.end + 1)]
        assert places == sorted(places)
        assert places[-1] == pytest.approx(after.total)
        # No step is longer than the steepest of its (at most two) stretches.
        knots = after.knots or ((0.0, 0.0), (1.0, 1.0))
        steepest = max((curve1 - curve0) / (step1 - step0) for (step0, curve0), (step1, curve1) in pairwise(knots))
        assert all(b - a <= steepest * (1 + 1e-9) + 1e-9 for a, b in pairwise(places))


@given(history=histories())
def test_it_is_stored_exactly(history: list[tuple[ScheduleMap, int]]) -> None:
    for found, _ in history:
        assert shaped(json.loads(json.dumps(found.as_dict())), ScheduleMap) == found


@given(step=st.integers(0, 99))
def test_without_a_change_it_is_the_same(step: int) -> None:
    assert resumed(FRESH, step, 100 - step, warmup=10, batch_before=4, batch=4) is FRESH
    assert FRESH(step) == step


@given(step=st.integers(0, 9), old=st.integers(1, 32), new=st.integers(1, 32), to_go=st.integers(50, 2000))
def test_warmup_keeps_its_samples(step: int, old: int, new: int, to_go: int) -> None:
    found = resumed(FRESH, step, to_go, warmup=10, batch_before=old, batch=new)
    samples_left = (10 - step) * old
    if samples_left < to_go * new:
        assert found(step + samples_left / new) == pytest.approx(10)


def test_more_epochs_stretch_the_rest_and_not_the_warmup() -> None:
    """100 steps became 200 at step 4: 6 steps of warm-up are left, then 90 steps of curve over 190."""
    found = resumed(FRESH, 4, 196, warmup=10, batch_before=4, batch=4)
    assert [found(s) for s in (4, 7, 10, 105, 200)] == pytest.approx([4, 7, 10, 55, 100])


def test_a_finished_training_lays_its_curve_over_all() -> None:
    found = resumed(FRESH, 100, 60, warmup=10, batch_before=4, batch=4)
    assert (found.total, found.end, found.knots) == (160, 160, ())


def test_nothing_left_changes_nothing() -> None:
    found = resumed(FRESH, 40, 0, warmup=10, batch_before=4, batch=8)
    assert (found.total, found.end, found(40)) == (100, 40, 40)


def test_beyond_the_end_it_goes_on() -> None:
    found = ScheduleMap(100, 50, ((10.0, 10.0), (50.0, 100.0)))
    assert [found(s) for s in (0, 10, 30, 50, 52)] == [10, 10, 55, 100, 102]
    assert found.slope_at(20) == 90 / 40
    assert found.slope_at(60) == 1.0
