"""Containers of Python and numpy as plain values that a checkpoint can hold, and back into the live ones."""

from __future__ import annotations

import enum
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

Plain: TypeAlias = Any
"""Tensors, numbers, texts, lists, tuples and dictionaries of them."""

Array: TypeAlias = np.ndarray[Any, Any] | np.generic

_LEAVES: Final = (bool, int, float, str, bytes, type(None))
_KEYS: Final = (bool, int, float, str, bytes)
_KIND: Final = "__kind__"
_ITEMS: Final = "items"
_MORE: Final = "more"
_FACTORIES: Final[dict[str, Callable[[], object]]] = {made.__name__: made for made in (list, dict, int, float, set)}
_DICTS: Final = (dict, OrderedDict, defaultdict, Counter)
# A table that is only looked into has more, and a copy at every step takes time.
_MAX_ITEMS: Final = 20_000
_MAX_BYTES: Final = 2**24


class NotPlainError(Exception):
    """A value that is not made of tensors, numbers, texts and containers of them, or too large a one."""


def encoded(
    value: object,
    *,
    tensor: Callable[[Tensor], Plain] | None = None,
    array: Callable[[Array], Plain] | None = None,
    limited: bool = True,
) -> Plain:
    """A copy as plain values.

    Args:
        value: Anything.
        tensor: What becomes of a tensor; a copy by default.
        array: What becomes of an array or a number of numpy; a tensor by default.
        limited: Whether too much is refused too.

    Raises:
        NotPlainError: there is something else in it, or too much.

    >>> encoded({"a": deque([1, 2], maxlen=3)})
    {'a': {'__kind__': 'deque', 'items': [1, 2], 'more': 3}}
    """
    return _Encoder(tensor or _copy, array or _as_tensor, limited=limited).encoded(value)


def is_plain(value: object) -> bool:
    """Whether a value has such a copy, however large; nothing is copied."""
    try:
        encoded(value, tensor=lambda _: None, array=_without_values, limited=False)
    except NotPlainError:
        return False

    return True


def _copy(value: Tensor) -> Plain:
    return value.detach().clone()


def _as_tensor(value: Array) -> Plain:
    try:
        return torch.from_numpy(np.array(value))
    except TypeError:
        raise NotPlainError from None


def _without_values(value: Array) -> Plain:
    return _as_tensor(np.empty(0, dtype=value.dtype))


class _Encoder:
    """Counts on the way, and ends where it goes round in a circle."""

    def __init__(self, tensor: Callable[[Tensor], Plain], array: Callable[[Array], Plain], *, limited: bool) -> None:
        self._tensor, self._to_plain, self._limited = tensor, array, limited
        self._num_items = self._num_bytes = 0
        self._on_the_way: set[int] = set()

    def encoded(self, value: object) -> Plain:
        self._num_items += 1
        too_much = self._num_items > _MAX_ITEMS or self._num_bytes > _MAX_BYTES
        if (too_much and self._limited) or id(value) in self._on_the_way:
            raise NotPlainError

        if type(value) in _LEAVES:
            return value
        if isinstance(value, Tensor | np.ndarray | np.generic):
            return self._array(value)
        if isinstance(value, torch.dtype):
            return {_KIND: "dtype", _ITEMS: str(value).removeprefix("torch.")}
        if isinstance(value, enum.Enum):
            return {_KIND: "enum", _ITEMS: value.name, _MORE: f"{type(value).__module__}:{type(value).__qualname__}"}

        self._on_the_way.add(id(value))
        try:
            return self._container(value)
        finally:
            self._on_the_way.discard(id(value))

    def _array(self, value: Tensor | Array) -> Plain:
        if isinstance(value, Tensor):
            if isinstance(value, nn.Parameter) or value.layout is not torch.strided or value.is_meta:
                raise NotPlainError
            self._num_bytes += value.numel() * value.element_size()
            return self._tensor(value)

        self._num_bytes += value.nbytes
        return {_KIND: "array" if isinstance(value, np.ndarray) else "scalar", _ITEMS: self._to_plain(value)}

    def _container(self, value: object) -> Plain:
        if type(value) in (list, tuple):
            items = [self.encoded(item) for item in cast(list[object], value)]
            return items if isinstance(value, list) else tuple(items)
        if type(value) in (set, frozenset):
            ordered = sorted(cast(set[object], value), key=repr)
            return {_KIND: type(value).__name__, _ITEMS: [self.encoded(item) for item in ordered]}
        if type(value) is deque:
            return {_KIND: "deque", _ITEMS: [self.encoded(item) for item in value], _MORE: value.maxlen}
        if type(value) in _DICTS:
            return self._dict(cast(dict[object, object], value))

        raise NotPlainError

    def _dict(self, value: dict[object, object]) -> Plain:
        if any(type(key) not in _KEYS for key in value) or _KIND in value:
            raise NotPlainError

        items = {key: self.encoded(item) for key, item in value.items()}
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
    if kind == "dtype":
        return getattr(torch, items)
    if kind == "enum":
        return _enum(items, value[_MORE], live)
    if kind == "Counter":
        return _fill_dict(live if type(live) is Counter else Counter(), items)
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


def _enum(name: str, path: str, live: object) -> enum.Enum:
    """The class is the program's: a file names it, and nothing is imported for it."""
    module, _, qualified = path.partition(":")
    cls: object = sys.modules.get(module)
    for part in qualified.split("."):
        cls = getattr(cls, part, None)
    if not (isinstance(cls, type) and issubclass(cls, enum.Enum)):
        cls = type(live)

    if isinstance(cls, type) and issubclass(cls, enum.Enum) and name in cls.__members__:
        return cls[name]
    raise NotPlainError(f"{qualified}.{name}")


def _decoded_items(items: list[Plain] | tuple[Plain, ...], live: object) -> list[object]:
    beside: list[object] = list(live) if isinstance(live, list | tuple) and len(live) == len(items) else []
    return [decoded(item, beside[number] if beside else None) for number, item in enumerate(items)]


def _fill_dict(live: object, items: dict[object, Plain]) -> object:
    there = cast(dict[object, object], live)
    content = {key: decoded(item, there.get(key)) for key, item in items.items()}
    there.clear()
    there.update(content)
    return there
