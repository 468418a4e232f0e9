"""Random states: exact, and out of each other's way."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from llamarec.checkpoints.resume.position import Geometry, Position
from llamarec.checkpoints.trainer.samples.rng import capture, keyed, seed_from, set_states
from llamarec.checkpoints.trainer.samples.sampling import KeyedCollator, KeyedDataset, SliceSampler


def _draw() -> tuple[float, float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1)), random.gauss(0, 1)


def test_what_was_captured_comes_again() -> None:
    # gauss keeps a second value back, which belongs to the state.
    random.gauss(0, 1)
    np.random.standard_normal()
    states = capture()
    first = [_draw() for _ in range(3)]
    set_states(states)
    assert [_draw() for _ in range(3)] == first


def test_a_captured_state_does_not_change() -> None:
    states = capture()
    first = _draw()
    set_states(states)
    _draw()
    set_states(states)
    assert _draw() == first


def test_a_key_decides_everything() -> None:
    found = []
    for before in (1, 2):
        seed_from(before)
        with keyed(42, 11, 3, 7):
            found.append(_draw())
    assert found[0] == found[1]


@pytest.mark.parametrize("other", [(42, 11, 3, 8), (42, 11, 4, 7), (42, 12, 3, 7), (43, 11, 3, 7), (42, 11, 7, 3)])
def test_another_key_is_another_stream(other: tuple[int, ...]) -> None:
    with keyed(42, 11, 3, 7):
        first = _draw()
    with keyed(*other):
        assert not set(first) & set(_draw())


@pytest.mark.parametrize("key", [(0,), (2**63 - 1, 2**40), (2**70, 1)])
def test_any_key(key: tuple[int, ...]) -> None:
    with keyed(*key):
        _draw()


def test_keyed_leaves_no_trace_even_on_an_error() -> None:
    states = capture()
    expected = _draw()
    set_states(states)

    def fail() -> None:
        with keyed(1, 2):
            _draw()
            raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        fail()
    assert _draw() == expected


class _Random(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: Any) -> tuple[Any, tuple[float, ...]]:
        return index, _draw()


def _batches(start: int, micro_batch: int, num_workers: int = 0) -> list[Any]:
    sampler = SliceSampler(Geometry(9, 4), lambda epoch: np.roll(np.arange(9), epoch), micro_batch)
    sampler.position = Position(1, start)
    loader = torch.utils.data.DataLoader(
        KeyedDataset(_Random(), 5), batch_sampler=sampler, collate_fn=KeyedCollator(list, 5), num_workers=num_workers
    )
    return [sample for batch in loader for sample in batch]


def test_a_sample_depends_on_its_key_alone() -> None:
    """Whatever came before, in whatever batches."""
    whole = _batches(0, 2)
    assert [index for index, _ in whole] == [8, 0, 1, 2, 3, 4, 5, 6, 7]
    assert _batches(4, 1) == whole[4:]
    assert _batches(0, 4) == whole
    assert len({draws for _, draws in whole}) == 9


def test_a_dataset_that_wants_the_epoch() -> None:
    assert KeyedDataset(_Random(), 5, by_epoch=True)[(3, 4)][1][0] == (3, 4)


def test_a_collators_draws_depend_on_its_first_sample() -> None:
    collate = KeyedCollator(lambda samples: (samples, _draw()), 5)
    first = collate([((0, 1), "a"), ((0, 2), "b")])
    assert first[0] == ["a", "b"]
    assert collate([((0, 1), "a")])[1] == first[1]
    assert collate([((1, 1), "a")])[1] != first[1]


def test_length_of_a_sampler_is_at_least_its_micro_batches() -> None:
    for micro_batch in (1, 2, 3, 5):
        sampler = SliceSampler(Geometry(9, 4), lambda _: np.arange(9), micro_batch)
        assert len(sampler) >= len(list(sampler)) >= 1
