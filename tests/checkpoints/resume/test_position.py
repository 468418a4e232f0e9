"""Where training is in its data: every sample once, whatever the batches; checked on arbitrary geometries."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamarec.checkpoints.resume.position import Geometry, Position, micro_batches, step_slices

geometries = st.builds(Geometry, num_samples=st.integers(1, 200), batch=st.integers(1, 70))


@given(geometry=geometries, micro_batch=st.integers(1, 9), num_processes=st.integers(1, 5), data=st.data())
def test_steps_and_processes_share_an_epoch_out(
    geometry: Geometry, micro_batch: int, num_processes: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, geometry.num_samples))
    seen: list[int] = []
    steps = list(step_slices(geometry, start))
    for step in steps:
        pieces = [micro_batches(step, micro_batch, rank, num_processes) for rank in range(num_processes)]
        assert all(1 <= len(piece) <= micro_batch for own in pieces for piece in own)
        taken = sorted(place for own in pieces for piece in own for place in piece)
        assert taken == list(step)
        # Nobody has two samples more than another in a short step, nor two micro-batches more in a full one.
        shares = [sum(map(len, own)) for own in pieces]
        assert max(shares) - min(shares) <= max(micro_batch, 1)
        seen += taken
    assert seen == list(range(start, geometry.num_samples))
    assert all(len(step) == geometry.batch for step in steps[:-1])
    assert len(steps) == geometry.steps_left(start)


@given(geometry=geometries, first=st.integers(0, 200), batch=st.integers(1, 70))
def test_another_batch_in_mid_epoch_takes_the_rest(geometry: Geometry, first: int, batch: int) -> None:
    steps = list(step_slices(geometry, 0))[:first]
    done = steps[-1].stop if steps else 0
    rest = step_slices(Geometry(geometry.num_samples, batch), done)
    assert [place for step in (*steps, *rest) for place in step] == list(range(geometry.num_samples))


def _walk(geometry: Geometry, position: Position) -> Position:
    """One step on."""
    if position.sample >= geometry.num_samples:
        position = Position(position.epoch + 1, 0)
    return Position(position.epoch, min(position.sample + geometry.batch, geometry.num_samples))


@given(geometry=geometries, num_epochs=st.integers(1, 4))
def test_steps_to_go_count_down_to_zero(geometry: Geometry, num_epochs: int) -> None:
    position, to_go = Position(), geometry.steps_to_go(Position(), num_epochs)
    assert to_go == num_epochs * math.ceil(geometry.num_samples / geometry.batch)
    while to_go:
        position, to_go = _walk(geometry, position), to_go - 1
        assert geometry.steps_to_go(position, num_epochs) == to_go
    assert position == Position(num_epochs - 1, geometry.num_samples)
    assert geometry.steps_to_go(Position(num_epochs, 0), num_epochs) == 0


@given(geometry=geometries, num_epochs=st.floats(0.1, 3.0))
def test_a_fraction_of_an_epoch_is_a_fraction_of_its_steps(geometry: Geometry, num_epochs: float) -> None:
    to_go = geometry.steps_to_go(Position(), num_epochs)
    exact = num_epochs * geometry.steps_per_epoch
    assert exact - 1e-6 <= to_go < exact + 1


@pytest.mark.parametrize(
    ("num_samples", "batch", "position", "num_epochs", "steps"),
    [
        (50, 4, Position(0, 0), 2.0, 26),
        (50, 4, Position(0, 48), 2.0, 14),
        (50, 4, Position(0, 50), 2.0, 13),
        (50, 4, Position(1, 0), 2.0, 13),
        (50, 4, Position(2, 0), 2.0, 0),
        (50, 4, Position(1, 24), 1.5, 1),
        (50, 4, Position(1, 28), 1.5, 0),
        (10, 1, Position(0, 0), 0.1 + 0.2, 3),
        (80, 8, Position(0, 40), 2.0, 15),
        (3, 100, Position(0, 0), 5.0, 5),
    ],
)
def test_steps_to_go(num_samples: int, batch: int, position: Position, num_epochs: float, steps: int) -> None:
    assert Geometry(num_samples, batch).steps_to_go(position, num_epochs) == steps


@given(geometry=geometries, start=st.integers(0, 200), steps=st.integers(0, 60))
def test_the_last_epoch_is_the_one_that_the_last_step_is_in(geometry: Geometry, start: int, steps: int) -> None:
    position = Position(1, min(start, geometry.num_samples))
    end = position
    for _ in range(steps):
        end = _walk(geometry, end)
    assert geometry.last_epoch(position, steps) == end.epoch + 1


def test_a_full_step_is_dealt_out_as_accelerate_does_it() -> None:
    assert [micro_batches(range(12), 2, rank, 3) for rank in range(3)] == [
        [range(2), range(6, 8)],
        [range(2, 4), range(8, 10)],
        [range(4, 6), range(10, 12)],
    ]


@pytest.mark.parametrize(
    ("num_samples", "shares"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (5, [2, 2, 1]), (11, [4, 4, 3])]
)
def test_a_short_step_is_shared_out(num_samples: int, shares: list[int]) -> None:
    pieces = [micro_batches(range(num_samples), 2, rank, 3) for rank in range(3)]
    assert [sum(map(len, own)) for own in pieces] == shares
