"""Containers of Python and numpy as plain values that a checkpoint can hold, and back into the live ones."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

Plain: TypeAlias = Any
"""Tensors, numbers, texts, lists, tuples and dictionaries of them."""

_LEAVES: Final = (bool, int, float, str, bytes, type(None))
_KEYS: Final = (bool, int, float, str, bytes)
_KIND: Final = "__kind__"
_ITEMS: Final = "items"
_MORE: Final = "more"
_FACTORIES: Final[dict[str, Callable[[], object]]] = {made.__name__: made for made in (list, dict, int, float, set)}
# A table that is only looked into has more, and a copy at every step takes time.
_MAX_ITEMS: Final = 20_000
_MAX_BYTES: Final = 2**24


class NotPlainError(Exception):
    """A value that is not made of tensors, numbers, texts and containers of them, or too large a one."""


def encoded(value: object) -> Plain:
    """A copy as plain values.

    Raises:
        NotPlainError: there is something else in it, or too much.

    >>> encoded({"a": deque([1, 2], maxlen=3)})
    {'a': {'__kind__': 'deque', 'items': [1, 2], 'more': 3}}
    """
    return _Encoder().encoded(value)


class _Encoder:
    """Counts on the way, and ends where it goes round in a circle."""

    def __init__(self) -> None:
        self._num_items = self._num_bytes = 0
        self._on_the_way: set[int] = set()

    def encoded(self, value: object) -> Plain:
        self._num_items += 1
        if self._num_items > _MAX_ITEMS or self._num_bytes > _MAX_BYTES or id(value) in self._on_the_way:
            raise NotPlainError

        if type(value) in _LEAVES:
            return value
        if isinstance(value, Tensor | np.ndarray | np.generic):
            return self._array(value)

        self._on_the_way.add(id(value))
        try:
            return self._container(value)
        finally:
            self._on_the_way.discard(id(value))

    def _array(self, value: Tensor | np.ndarray[Any, Any] | np.generic) -> Plain:
        if isinstance(value, Tensor):
            if isinstance(value, nn.Parameter) or value.layout is not torch.strided or value.is_meta:
                raise NotPlainError
            self._num_bytes += value.numel() * value.element_size()
            return value.detach().clone()

        self._num_bytes += value.nbytes
        try:
            tensor = torch.from_numpy(np.array(value))
        except TypeError:
            raise NotPlainError from None
        return {_KIND: "array" if isinstance(value, np.ndarray) else "scalar", _ITEMS: tensor}

    def _container(self, value: object) -> Plain:
        if type(value) in (list, tuple):
            items = [self.encoded(item) for item in cast(list[object], value)]
            return items if isinstance(value, list) else tuple(items)
        if type(value) in (set, frozenset):
            ordered = sorted(cast(set[object], value), key=repr)
            return {_KIND: type(value).__name__, _ITEMS: [self.encoded(item) for item in ordered]}
        if type(value) is deque:
            return {_KIND: "deque", _ITEMS: [self.encoded(item) for item in value], _MORE: value.maxlen}
        if type(value) in (dict, OrderedDict, defaultdict):
            return self._dict(cast(dict[object, object], value))

        raise NotPlainError

    def _dict(self, value: dict[object, object]) -> Plain:
        if any(type(key) not in _KEYS for key in value) or _KIND in value:
            raise NotPlainError

        items = {key: self.encoded(item) for key, item in value.items()}
        if not isinstance(value, defaultdict):
            return items

        factory = next((name for name, made in _FACTORIES.items() if made is value.default_factory), "")
        return {_KIND: "defaultdict", _ITEMS: items, _MORE: factory}


def decoded(value: Plain, live: object = None) -> object:
    """What was encoded; live containers of the same kind are filled and returned, so that they keep their identity."""
    if type(value) is dict and _KIND in value:
        return _decoded_kind(value, live)
    if type(value) is dict:
        return _fill_dict(live if type(live) in (dict, OrderedDict) else {}, value)
    if type(value) is list:
        items = _decoded_items(value, live)
        if type(live) is not list:
            return items
        live[:] = items
        return live
    if type(value) is tuple:
        return tuple(_decoded_items(value, live))
    if isinstance(value, Tensor):
        return value.to(live.device) if isinstance(live, Tensor) else value

    return value


def _decoded_kind(value: dict[str, Any], live: object) -> object:
    kind, items = value[_KIND], value[_ITEMS]
    if kind in ("array", "scalar"):
        array = items.detach().cpu().numpy()
        return array.copy() if kind == "array" else array[()]
    if kind == "defaultdict":
        there = live if type(live) is defaultdict else defaultdict(_FACTORIES.get(value[_MORE]))
        return _fill_dict(there, items)
    if kind == "deque":
        queue: deque[object] = live if type(live) is deque else deque(maxlen=value[_MORE])
        content = _decoded_items(items, None)
        queue.clear()
        queue.extend(content)
        return queue

    made = {decoded(item) for item in items}
    if kind == "frozenset":
        return frozenset(made)
    if type(live) is not set:
        return made
    live.clear()
    live.update(made)
    return live


def _decoded_items(items: list[Plain] | tuple[Plain, ...], live: object) -> list[object]:
    beside: list[object] = list(live) if isinstance(live, list | tuple) and len(live) == len(items) else []
    return [decoded(item, beside[number] if beside else None) for number, item in enumerate(items)]


def _fill_dict(live: object, items: dict[object, Plain]) -> object:
    there = cast(dict[object, object], live)
    content = {key: decoded(item, there.get(key)) for key, item in items.items()}
    there.clear()
    there.update(content)
    return there
