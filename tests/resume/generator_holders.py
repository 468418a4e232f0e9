"""Kinds of random generators, and holders, where a program may keep one: each gives a function that draws."""

from __future__ import annotations

import contextvars
import functools
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch

from tests.resume import generator_module
from tests.resume.jobs import warm_up as warm_up

Draw = Callable[[], float]

# ---- Kinds ----

KINDS: Final[dict[str, Callable[[], Any]]] = {
    "torch.Generator": lambda: torch.Generator().manual_seed(7),
    "numpy Generator": lambda: np.random.default_rng(7),
    "numpy MT19937": lambda: np.random.Generator(np.random.MT19937(7)),
    "numpy Philox": lambda: np.random.Generator(np.random.Philox(7)),
    "numpy SFC64": lambda: np.random.Generator(np.random.SFC64(7)),
    "RandomState": lambda: np.random.RandomState(7),
    "random.Random": lambda: random.Random(7),
    "random.SystemRandom": random.SystemRandom,
}


def draw_from(one: Any) -> float:
    """A number in [0, 1)."""
    if isinstance(one, torch.Generator):
        return float(torch.rand(1, generator=one))
    return float(one.random_sample() if isinstance(one, np.random.RandomState) else one.random())


# ---- Holders ----


class _Attribute:
    def __init__(self, one: Any) -> None:
        self.one = one

    def __call__(self) -> float:
        return draw_from(self.one)


class _Slots:
    __slots__ = ("one",)

    def __init__(self, one: Any) -> None:
        self.one = one

    def __call__(self) -> float:
        return draw_from(self.one)


@dataclass
class _Data:
    one: Any
    parts: dict[str, list[Any]] = field(default_factory=dict)

    def __call__(self) -> float:
        return draw_from(self.one)


class _Late:
    def __init__(self, one: Any) -> None:
        self.make, self.one = KINDS["numpy Generator"], None

    def __call__(self) -> float:
        if self.one is None:
            self.one = self.make()
        return draw_from(self.one)


class _OfTheClass:
    one: Any = None

    def __call__(self) -> float:
        return draw_from(self.one)


def _of_the_class(one: Any) -> Draw:
    _OfTheClass.one = one
    return _OfTheClass()


def _closure(one: Any) -> Draw:
    def draw() -> float:
        return draw_from(one)

    return draw


def _default(one: Any) -> Draw:
    return lambda held=one: draw_from(held)  # type: ignore[misc]


def _nested(one: Any) -> Draw:
    steps = SimpleNamespace(first={"list": [(_Attribute(one), "a text")]})
    return lambda: steps.first["list"][0][0]()


def _cached(one: Any) -> Draw:
    @functools.lru_cache
    def held() -> Any:
        return one

    held()
    return lambda: draw_from(held())


def _context(one: Any) -> Draw:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")
    variable.set(one)
    return lambda: draw_from(variable.get())


def _local(one: Any) -> Draw:
    local = threading.local()
    local.one = one
    return lambda: draw_from(local.one)


def _set(one: Any) -> Draw:
    held = {one}
    return lambda: draw_from(next(iter(held)))


def _two_in_a_set(one: Any) -> Draw:
    held = {one, KINDS["torch.Generator"]()}
    return lambda: sum(map(draw_from, sorted(held, key=lambda each: type(each).__name__))) / 2


def _stream(one: Any) -> Draw:
    def stream() -> Iterator[float]:
        while True:
            yield draw_from(one)

    numbers = stream()
    return lambda: next(numbers)


def _map(one: Any) -> Draw:
    numbers = map(lambda _: draw_from(one), itertools.count())  # noqa: C417
    return lambda: next(numbers)


def _module(one: Any) -> Draw:
    return lambda: generator_module.RNG.random()


def _imported_late(one: Any) -> Draw:
    def draw() -> float:
        from tests.resume import generator_module as late

        return late.PYTHON.random()

    return draw


OF_THIS_MODULE = np.random.default_rng(9)


def _global(one: Any) -> Draw:
    return lambda: float(OF_THIS_MODULE.random())


def _unseeded(one: Any) -> Draw:
    return lambda: float(np.random.default_rng().random())


HOLDERS: Final[dict[str, Callable[[Any], Draw]]] = {
    "attribute": _Attribute,
    "slots": _Slots,
    "dataclass": _Data,
    "made when first needed": _Late,
    "class": _of_the_class,
    "closure": _closure,
    "default": _default,
    "partial": lambda one: functools.partial(draw_from, one),
    "bound method": lambda one: one.random,
    "nested": _nested,
    "lru_cache": _cached,
    "ContextVar": _context,
    "threading.local": _local,
    "set": _set,
    "two in a set": _two_in_a_set,
    "generator function": _stream,
    "map": _map,
    "global": _global,
    "global of another module": _module,
    "global of a module imported late": _imported_late,
}
