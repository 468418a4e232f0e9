"""Generators that data hold: found wherever they are, keyed like the global ones, and left as they were."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from llamarec.checkpoints.resume.position import Geometry, Position
from llamarec.checkpoints.trainer.samples.generator_kinds import (
    is_generator,
    seed,
    set_state,
    state_of,
    state_restorer,
)
from llamarec.checkpoints.trainer.samples.generators import HeldGenerators
from llamarec.checkpoints.trainer.samples.repeatable import check_repeatable
from llamarec.checkpoints.trainer.samples.sampling import KeyedCollator, KeyedDataset, SliceSampler
from llamarec.errors import ConfigError

NUM_SAMPLES = 12
OF_THE_MODULE = np.random.default_rng(3)


class _Slots:
    __slots__ = ("rng",)

    def __init__(self) -> None:
        self.rng = random.Random(3)

    def __call__(self) -> float:
        return self.rng.random()


class _OfTheClass:
    rng = np.random.RandomState(3)

    def __call__(self) -> float:
        return float(self.rng.rand())


class _Property:
    """Its generator is behind a property, which must not be asked."""

    def __init__(self) -> None:
        self._rng = np.random.Generator(np.random.MT19937(3))

    @property
    def rng(self) -> Any:
        raise AssertionError("the walk has called a property")

    def __call__(self) -> float:
        return self._rng.random()


class _Late:
    """Makes its generator when it is first needed."""

    def __init__(self) -> None:
        self.rng: Any = None

    def __call__(self) -> float:
        self.rng = self.rng or np.random.default_rng(3)
        return float(self.rng.random())


class _LateByWorker:
    """One for each worker, in a dictionary that is empty at first."""

    def __init__(self) -> None:
        self.by_worker: dict[int, Any] = {}

    def __call__(self) -> float:
        info = torch.utils.data.get_worker_info()
        worker = info.id if info is not None else -1
        if worker not in self.by_worker:
            self.by_worker[worker] = random.Random(worker)
        return float(self.by_worker[0 if worker not in self.by_worker else worker].random())


def _of_torch() -> Callable[[], float]:
    return functools.partial(lambda generator: float(torch.rand(1, generator=generator)), torch.Generator())


def _closure() -> Callable[[], float]:
    rng = np.random.default_rng(3)
    return lambda: float(rng.random())


def _default() -> Callable[[], float]:
    def draw(rng: Any = random.Random(3)) -> float:  # noqa: B008
        return float(rng.random())

    return draw


def _of_the_module() -> Callable[[], float]:
    return lambda: float(OF_THE_MODULE.random())


def _nested() -> Callable[[], float]:
    steps = {"first": [(_Slots(), "a text")]}
    return lambda: float(steps["first"][0][0]())


HOLDERS: dict[str, Callable[[], Any]] = {
    "slots": _Slots,
    "class": _OfTheClass,
    "property": _Property,
    "late": _Late,
    "late, in a dictionary": _LateByWorker,
    "partial of torch": _of_torch,
    "closure": _closure,
    "default of a parameter": _default,
    "module": _of_the_module,
    "nested": _nested,
    "bound method of a generator": lambda: np.random.default_rng(3).random,
    "bound method": lambda: _Slots().__call__,
}


class Drawn(Dataset[tuple[int, float]]):
    """Its transform draws a number for each sample."""

    def __init__(self, transform: Callable[[], float]) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, self.transform()


def _wrapped(transform: Callable[[], float]) -> Dataset[Any]:
    half = NUM_SAMPLES // 2
    parts = [Subset(Drawn(transform), range(half)), Subset(Drawn(transform), range(half, NUM_SAMPLES))]
    return ConcatDataset(parts)


def _samples(dataset: Any, start: int = 0, num_workers: int = 0, micro_batch: int = 2) -> list[Any]:
    sampler = SliceSampler(Geometry(NUM_SAMPLES, 4), lambda _: np.arange(NUM_SAMPLES), micro_batch)
    sampler.position = Position(1, start)
    loader: Any = DataLoader(
        KeyedDataset(dataset, 5), batch_sampler=sampler, collate_fn=KeyedCollator(list, 5), num_workers=num_workers
    )
    return [sample for batch in loader for sample in batch]


@pytest.mark.parametrize("name", HOLDERS)
def test_a_sample_depends_on_its_key_alone(name: str) -> None:
    """Whatever was drawn before, in whatever data set the transform is."""
    whole = _samples(Drawn(HOLDERS[name]()))
    assert len({draw for _, draw in whole}) == NUM_SAMPLES
    assert _samples(Drawn(HOLDERS[name]()), start=4) == whole[4:]
    assert _samples(Drawn(HOLDERS[name]()), micro_batch=1) == whole

    wrapped = _samples(_wrapped(HOLDERS[name]()))
    assert _samples(_wrapped(HOLDERS[name]()), start=8) == wrapped[8:]


@pytest.mark.parametrize("name", ["late", "partial of torch", "late, in a dictionary", "module"])
def test_workers_draw_the_same(name: str) -> None:
    whole = _samples(Drawn(HOLDERS[name]()))
    assert _samples(Drawn(HOLDERS[name]()), start=4, num_workers=2) == whole[4:]


@pytest.mark.parametrize("name", HOLDERS)
def test_a_collator_is_keyed_too(name: str) -> None:
    def batches(start: int) -> list[Any]:
        transform = HOLDERS[name]()
        collate = KeyedCollator(lambda samples: (samples, transform()), 5)
        return [collate([((0, index), "a"), ((0, index + 1), "b")]) for index in range(start, NUM_SAMPLES, 2)]

    assert batches(4) == batches(0)[2:]


@pytest.mark.parametrize("name", ["slots", "class", "partial of torch", "closure", "property"])
def test_generators_have_their_state_afterwards_even_on_an_error(name: str) -> None:
    transform = HOLDERS[name]()
    held = HeldGenerators(transform)
    (one,) = held.found().values()
    before = _state(one)

    def fail() -> None:
        transform()
        raise ValueError("bug")

    held.draw(transform, 1, 2)
    with pytest.raises(ValueError, match="bug"):
        held.draw(fail, 1, 2)
    assert _state(one) == before


def _state(one: Any) -> str:
    if isinstance(one, torch.Generator):
        return repr(one.get_state().tolist())
    if isinstance(one, np.random.Generator):
        return repr(one.bit_generator.state)
    return repr(one.get_state() if isinstance(one, np.random.RandomState) else one.getstate())


def test_two_that_share_what_they_draw_from_are_left_as_they_were() -> None:
    bits = np.random.PCG64(3)
    held = HeldGenerators([np.random.Generator(bits), np.random.Generator(bits), bits])
    before = repr(bits.state)
    with held.keyed(1):
        pass
    assert repr(bits.state) == before


def test_the_global_ones_are_nobodys() -> None:
    assert not is_generator(torch.default_generator)
    assert not is_generator(random.random.__self__)  # type: ignore[attr-defined]
    assert not HeldGenerators([np.random.rand, np.random.random, random.gauss]).found()


def test_cycles_and_large_data_end() -> None:
    tree: list[Any] = [{"rows": [[1, 2, 3]] * 100_000, "text": "a" * 1000}]
    tree.append(tree)
    tree.append(np.random.default_rng(1))
    assert list(HeldGenerators(tree).found()) == ["[2]"]


def test_the_watch_costs_microseconds() -> None:
    dataset = KeyedDataset(_wrapped(lambda: 0.5), 5)
    dataset[(0, 0)]
    start = time.perf_counter()
    for _ in range(100):
        assert not dataset.generators.are_others()
    # 15 microseconds on an idle core.
    assert (time.perf_counter() - start) / 100 < 2e-3


# ---- What cannot be keyed ----


class _Counting:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> float:
        self.calls += 1
        return float(self.calls)


def _check(transform: Any = float, collate: Any = list, order: Any = lambda _: np.arange(NUM_SAMPLES)) -> None:
    dataset, collator = KeyedDataset(Drawn(transform), 5), KeyedCollator(collate, 5)
    check_repeatable(dataset, collator, order, dataset_name="train_dataset (Drawn)", collator_name="data_collator (x)")


class _Kept(Dataset[float]):
    """Draws for a sample once, or for none."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw, self._samples = draw, dict[int, float]()

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> float:
        if index not in self._samples:
            self._samples[index] = self._draw()
        return self._samples[index]


def _check_kept(draw: Callable[[], float]) -> None:
    dataset, collator = KeyedDataset(_Kept(draw), 5), KeyedCollator(list, 5)
    check_repeatable(
        dataset,
        collator,
        lambda _: np.arange(NUM_SAMPLES),
        dataset_name="train_dataset (Kept)",
        collator_name="data_collator (x)",
    )


@pytest.mark.parametrize(
    "draw",
    [random.random, lambda: float(np.random.rand()), lambda: float(torch.rand(())), lambda: OF_THE_MODULE.random()],
    ids=["python", "numpy", "torch", "held"],
)
def test_a_draw_that_is_kept_is_refused(draw: Callable[[], float]) -> None:
    with pytest.raises(ConfigError, match="draws random numbers at its first reading only") as refusal:
        _check_kept(draw)
    assert "in __init__, from a seed" in str(refusal.value)


def test_what_is_kept_without_a_draw_is_taken() -> None:
    _check_kept(lambda: 1.0)


def test_a_draw_that_only_sets_something_up_is_taken() -> None:
    once = functools.cache(random.random)
    _check_kept(lambda: 0.0 * once())


def test_what_changes_at_each_reading_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigError, match=r"sample 0 of train_dataset \(Drawn\) is another at each reading") as refusal:
        _check(_Counting())
    assert "--no_check_data" in str(refusal.value)
    with pytest.raises(ConfigError, match=r"sample 0 of train_dataset"):
        _check(lambda: np.random.default_rng().random())


def test_a_collator_that_makes_another_batch_each_time_is_refused() -> None:
    counting = _Counting()
    with pytest.raises(ConfigError, match=r"data_collator \(x\) makes another batch of the same samples"):
        _check(collate=lambda samples: {"x": torch.tensor([counting()] * len(samples))})


def test_a_generator_of_the_operating_system_is_refused() -> None:
    draw = random.SystemRandom()
    with pytest.raises(ConfigError, match=r"holds a random\.SystemRandom \(transform\.__self__\)|SystemRandom"):
        _check(draw.random)


def test_an_order_that_is_drawn_from_a_global_generator_is_refused() -> None:
    state = np.random.get_state()[1].tolist()  # type: ignore[index]
    with pytest.raises(ConfigError, match="epoch_order returns another order"):
        _check(order=lambda _: np.random.permutation(NUM_SAMPLES))
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]


def test_what_can_be_repeated_is_taken() -> None:
    _check(torch.nn.Dropout, collate=lambda samples: {"x": torch.rand(2), "y": [None, "a", {1}, float("nan")]})
    _check(_Late())


def _spawned(one: np.random.Generator) -> list[float]:
    return [child.random() for child in one.spawn(2)]


def test_the_generators_that_one_makes_are_part_of_its_state() -> None:
    one, other = np.random.default_rng([1, 2]), np.random.default_rng()
    one.spawn(3)
    other.spawn(9)
    saved, restore = state_of(one), state_restorer(one)
    expected = _spawned(one)

    set_state(other, saved)
    assert _spawned(other) == expected
    restore()
    assert _spawned(one) == expected

    seed(one, [1])
    expected = _spawned(one)
    seed(one, [1])
    assert _spawned(one) == expected


def test_a_state_of_an_older_checkpoint_leaves_them() -> None:
    one = np.random.default_rng(1)
    saved = {name: value for name, value in state_of(one).items() if name != "seeds"}
    one.spawn(3)
    set_state(one, saved)
    assert one.bit_generator.seed_seq.n_children_spawned == 3  # type: ignore[attr-defined]
