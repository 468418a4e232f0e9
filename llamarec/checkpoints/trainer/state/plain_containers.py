"""Containers of Python and numpy as plain values that a checkpoint can hold, and back into the live ones."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection
from typing import Any, Final, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from llamarec.checkpoints.trainer.state.plain_objects import NotPlainError, described, remade

Plain: TypeAlias = Any
"""Tensors, numbers, texts, lists, tuples and dictionaries of them."""

Array: TypeAlias = np.ndarray[Any, Any] | np.generic

_LEAVES: Final = frozenset({bool, int, float, str, bytes, type(None)})
_KEYS: Final = frozenset({bool, int, float, str, bytes})
_KIND: Final = "__kind__"
_ITEMS: Final = "items"
_MORE: Final = "more"
_FACTORIES: Final[dict[str, Callable[[], object]]] = {made.__name__: made for made in (list, dict, int, float, set)}
_DICTS: Final = (dict, OrderedDict, defaultdict, Counter)
# A table that is only looked into has more, and a copy at every step takes time.
_MAX_ITEMS: Final = 20_000
# So many numbers or texts in one container count as one item.
_FLAT_ITEMS: Final = 10
_MAX_BYTES: Final = 2**24


def encoded(
    value: object,
    *,
    leaf: Callable[[Tensor | Array], Plain] | None = None,
    max_items: int = _MAX_ITEMS,
    max_bytes: int = _MAX_BYTES,
) -> Plain:
    """A copy as plain values.

    Args:
        value: Anything.
        leaf: What becomes of a tensor, or of an array or number of numpy; a tensor of its own by default.
        max_items: More are refused.
        max_bytes: Likewise, of tensors and arrays.

    Raises:
        NotPlainError: there is something else in it, or too much.

    >>> encoded({"a": deque([1, 2], maxlen=3)})
    {'a': {'__kind__': 'deque', 'items': [1, 2], 'more': 3}}
    """
    return _Encoder(leaf or _copy, max_items, max_bytes).encoded(value)


def is_plain(value: object) -> bool:
    """Whether a value has such a copy, however large; tensors are not copied."""
    try:
        encoded(value, leaf=_checked, max_items=sys.maxsize, max_bytes=sys.maxsize)
    except NotPlainError:
        return False

    return True


def _copy(value: Tensor | Array) -> Plain:
    if isinstance(value, Tensor):
        return value.detach().clone()

    try:
        return torch.from_numpy(np.array(value))
    except TypeError:
        raise NotPlainError from None


def _checked(value: Tensor | Array) -> Plain:
    if not isinstance(value, Tensor):
        _copy(np.empty(0, dtype=value.dtype))


class _Encoder:
    """Counts on the way, and ends where it goes round in a circle."""

    def __init__(self, leaf: Callable[[Tensor | Array], Plain], max_items: int, max_bytes: int) -> None:
        self._leaf, self._max_items, self._max_bytes = leaf, max_items, max_bytes
        self._num_items = self._num_bytes = 0
        self._on_the_way: set[int] = set()

    def encoded(self, value: object) -> Plain:
        if type(value) in _LEAVES:
            self._count(items=1)
            return value
        if isinstance(value, Tensor | np.ndarray | np.generic):
            return self._array(value)
        if id(value) in self._on_the_way:
            raise NotPlainError

        self._on_the_way.add(id(value))
        try:
            return self._container(value)
        finally:
            self._on_the_way.discard(id(value))

    def _count(self, *, items: int = 0, num_bytes: int = 0) -> None:
        self._num_items += items
        self._num_bytes += num_bytes
        if self._num_items > self._max_items or self._num_bytes > self._max_bytes:
            raise NotPlainError

    def _array(self, value: Tensor | Array) -> Plain:
        if isinstance(value, nn.Parameter) or (
            isinstance(value, Tensor) and (value.layout is not torch.strided or value.is_meta)
        ):
            raise NotPlainError

        self._count(items=1, num_bytes=value.nbytes)
        if isinstance(value, Tensor):
            return self._leaf(value)
        return {_KIND: "array" if isinstance(value, np.ndarray) else "scalar", _ITEMS: self._leaf(value)}

    def _container(self, value: object) -> Plain:
        if type(value) in (list, tuple):
            items = self._items(cast(list[object], value))
            return items if isinstance(value, list) else tuple(items)
        if type(value) in (set, frozenset):
            ordered = sorted(cast(set[object], value), key=repr)
            return {_KIND: type(value).__name__, _ITEMS: self._items(ordered)}
        if type(value) is deque:
            return {_KIND: "deque", _ITEMS: self._items(value), _MORE: value.maxlen}
        if type(value) in _DICTS:
            return self._dict(cast(dict[object, object], value))

        self._count(items=1)
        kind, content, more = described(value)
        return {_KIND: kind, _ITEMS: self.encoded(content), _MORE: more}

    def _items(self, values: Collection[object]) -> list[Plain]:
        if _LEAVES.issuperset(map(type, values)):
            # A list that grows with each step is copied at each.
            self._count(items=1 + len(values) // _FLAT_ITEMS)
            return list(values)

        self._count(items=1)
        return [self.encoded(value) for value in values]

    def _dict(self, value: dict[object, object]) -> Plain:
        values = self._items(value.values())
        if _KEYS.issuperset(map(type, value)) and _KIND not in value:
            items: Plain = dict(zip(value, values, strict=True))
        else:
            items = {_KIND: "dict", _ITEMS: list(zip(map(self.encoded, value), values, strict=True))}
        if isinstance(value, Counter):
            return {_KIND: "Counter", _ITEMS: items}
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
    if kind == "Counter":
        return _fill_dict(live if type(live) is Counter else Counter(), _mapping(items))
    if kind == "defaultdict":
        there = live if type(live) is defaultdict else defaultdict(_FACTORIES.get(value[_MORE]))
        return _fill_dict(there, _mapping(items))
    if kind == "dict":
        return _fill_dict(live if type(live) in (dict, OrderedDict) else {}, _mapping(value))
    if kind == "deque":
        queue: deque[object] = live if type(live) is deque else deque(maxlen=value[_MORE])
        content = _decoded_items(items, None)
        queue.clear()
        queue.extend(content)
        return queue

    if kind not in ("set", "frozenset"):
        return remade(kind, decoded(items), value[_MORE], live)

    made = {decoded(item) for item in items}
    if kind == "frozenset":
        return frozenset(made)
    if type(live) is not set:
        return made
    live.clear()
    live.update(made)
    return live


def _mapping(items: Plain) -> dict[object, Plain]:
    """By key, of which some are no plain ones."""
    return {decoded(key): item for key, item in items[_ITEMS]} if _KIND in items else items


def _decoded_items(items: list[Plain] | tuple[Plain, ...], live: object) -> list[object]:
    beside: list[object] = list(live) if isinstance(live, list | tuple) and len(live) == len(items) else []
    return [decoded(item, beside[number] if beside else None) for number, item in enumerate(items)]


def _fill_dict(live: object, items: dict[object, Plain]) -> object:
    there = cast(dict[object, object], live)
    content = {key: decoded(item, there.get(key)) for key, item in items.items()}
    there.clear()
    there.update(content)
    return there
