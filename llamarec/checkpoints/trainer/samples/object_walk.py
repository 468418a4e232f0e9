"""A bounded walk over the objects that a data set, a collator or a function can reach.

It looks into attributes, slots, closures, defaults, partial functions, bound methods, containers of moderate size, and
the globals that a function names. It calls nothing: no property, no `__getattr__`, no `__len__` of a program.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    NoneType,
)
from typing import Final, TypeAlias

import numpy as np
import torch

_MAX_OBJECTS: Final = 5_000
# Longer containers are data, unless they hold objects with attributes (the parts of a concatenation).
_MAX_ITEMS: Final = 256
_MAX_PARTS: Final = 4_096
# Short containers are watched even if nothing but numbers is in them: they may be filled later.
_SHORT: Final = 16
_LEAF_TYPES: Final = frozenset({str, bytes, bytearray, int, float, complex, bool, NoneType, range, slice, CodeType})
_LEAVES: Final = (torch.Tensor, np.ndarray, np.generic, ModuleType, PurePath, str, bytes)
_BOUND: Final = (MethodType, BuiltinMethodType, MethodWrapperType)
# Their code draws from the global generators, or from objects that the walk reaches by attributes.
_LIBRARIES: Final = frozenset(
    {"accelerate", "datasets", "numpy", "pandas", "peft", "pyarrow", "tokenizers", "torch", "transformers"}
)

Ids: TypeAlias = tuple[int, ...]
_Values: TypeAlias = Callable[[], Iterable[object]]


class ObjectWalk:
    """One walk, and a cheap way to tell whether another would find something else.

    Args:
        root: Where it starts.
        is_wanted: What to look for. Nothing is looked for inside of what is wanted.

    Attributes:
        found: By path from the root (".transform.rng"), each object once.
    """

    def __init__(self, root: object, is_wanted: Callable[[object], bool]) -> None:
        self.found: dict[str, object] = {}
        # Visited objects are held, so that no other gets the id of one.
        self._visited: dict[int, object] = {}
        self._watched: list[tuple[_Values, Ids]] = []
        self._walk(root, is_wanted)

    def has_changed(self) -> bool:
        """Whether an object, rather than a number or a tensor, was put anywhere on the way since."""
        changed = False
        for number, (values, seen) in enumerate(self._watched):
            now = tuple(map(id, values()))
            if now == seen:
                continue

            self._watched[number] = (values, now)
            before = set(seen)
            changed = changed or any(id(value) not in before and not _is_leaf(value) for value in values())
        return changed

    def _walk(self, root: object, is_wanted: Callable[[object], bool]) -> None:
        queue = deque([("", root)])
        while queue and len(self._visited) < _MAX_OBJECTS:
            path, value = queue.popleft()
            if id(value) in self._visited:
                continue

            self._visited[id(value)] = value
            if is_wanted(value):
                self.found[path] = value
                continue

            for label, child in self._children(value):
                if not _is_leaf(child):
                    queue.append((label if label[:1] == "@" else path + label, child))

    # ---- What an object holds ----

    def _children(self, value: object) -> Iterator[tuple[str, object]]:
        if isinstance(value, FunctionType):
            yield from self._of_function(value)
        elif isinstance(value, type):
            yield from self._of_class(value)
        elif isinstance(value, functools.partial):
            yield from (("", value.func), (".args", value.args), (".keywords", value.keywords))
        elif isinstance(value, _BOUND):
            yield from (("", value.__self__), ("()", getattr(value, "__func__", None)))
        elif isinstance(value, dict):
            yield from self._of_dict(value)
        elif isinstance(value, list | tuple | deque):
            yield from self._of_container(value)

        if not isinstance(value, type):
            yield from self._of_instance(value)

    def _of_instance(self, value: object) -> Iterator[tuple[str, object]]:
        try:
            attributes = object.__getattribute__(value, "__dict__")
        except (AttributeError, TypeError):
            attributes = None
        if isinstance(attributes, dict):
            self._watch(attributes.values)
            yield from ((f".{name}", child) for name, child in list(attributes.items()))

        for cls in type(value).__mro__:
            if "__slots__" in cls.__dict__:
                slots = {name: slot for name, slot in vars(cls).items() if isinstance(slot, MemberDescriptorType)}
                read = functools.partial(_slot_values, value, tuple(slots.values()))
                self._watch(read)
                yield from ((f".{name}", child) for name, child in zip(slots, read(), strict=True))

        if _is_program(type(value)):
            yield "", type(value)

    def _of_class(self, cls: type) -> Iterator[tuple[str, object]]:
        for one in filter(_is_program, cls.__mro__):
            members = vars(one)
            self._watch(members.values)
            for name, member in list(members.items()):
                # What a property or a method calls, without calling it.
                member = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if not name.startswith("__") or isinstance(member, FunctionType):
                    yield f"@{one.__qualname__}.{name}", member

    def _of_function(self, function: FunctionType) -> Iterator[tuple[str, object]]:
        cells = function.__closure__ or ()
        for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
            read = functools.partial(_cell_values, cell)
            self._watch(read)
            yield from ((f".{name}", child) for child in read())

        yield ".__defaults__", function.__defaults__
        yield ".__kwdefaults__", function.__kwdefaults__

        if _is_program(function):
            space, names = function.__globals__, sorted(_names(function.__code__))
            self._watch(functools.partial(_global_values, space, names))
            module = str(space.get("__name__", "")).replace("__mp_main__", "__main__")
            yield from ((f"@{module}.{name}", space[name]) for name in names if name in space)

    def _of_dict(self, value: dict[object, object]) -> Iterator[tuple[str, object]]:
        items = list(dict.items(value)) if dict.__len__(value) <= _MAX_ITEMS else []
        if len(items) <= _SHORT or not all(_is_leaf(child) for _, child in items):
            self._watch(functools.partial(dict.values, value))
        for number, (key, child) in enumerate(items):
            # A number is a worker's or an epoch's; the text of another key may hold an address.
            yield (
                f"{{{key}}}" if isinstance(key, int) else f"[{key!r}]" if isinstance(key, str) else f"[#{number}]",
                child,
            )

    def _of_container(self, value: list[object] | tuple[object, ...] | deque[object]) -> Iterator[tuple[str, object]]:
        # Not of sets, whose order differs between processes.
        items = _items_of(value)
        if len(items) > _MAX_ITEMS and (len(items) > _MAX_PARTS or not _has_attributes(items[0])):
            return

        if not isinstance(value, tuple) and (len(items) <= _SHORT or not all(map(_is_leaf, items))):
            self._watch(functools.partial(_items_of, value))
        yield from ((f"[{number}]", child) for number, child in enumerate(items))

    def _watch(self, values: _Values) -> None:
        self._watched.append((values, tuple(map(id, values()))))


def _is_leaf(value: object) -> bool:
    return type(value) in _LEAF_TYPES or isinstance(value, _LEAVES)


def _has_attributes(value: object) -> bool:
    return any("__dict__" in vars(cls) for cls in type(value).__mro__)


def _is_program(value: type | FunctionType) -> bool:
    """Whether this is code of a program, and not of Python or of a library that is known."""
    package = str(getattr(value, "__module__", None) or "").partition(".")[0]
    return package not in _LIBRARIES and (package == "__main__" or package not in sys.stdlib_module_names)


def _names(code: CodeType) -> set[str]:
    """Globals and attributes that code names, in the functions within it too."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _items_of(value: list[object] | tuple[object, ...] | deque[object]) -> list[object]:
    """Items, though a subclass may have an iterator of its own."""
    if isinstance(value, list):
        return list(list.__iter__(value))
    return list(tuple.__iter__(value)) if isinstance(value, tuple) else list(deque.__iter__(value))


def _slot_values(value: object, slots: tuple[MemberDescriptorType, ...]) -> tuple[object, ...]:
    def read(slot: MemberDescriptorType) -> object:
        try:
            return slot.__get__(value)
        except AttributeError:
            return None

    return tuple(map(read, slots))


def _cell_values(cell: object) -> tuple[object, ...]:
    try:
        return (getattr(cell, "cell_contents", None),)
    except ValueError:
        # Not bound yet.
        return (None,)


def _global_values(space: Mapping[str, object], names: list[str]) -> tuple[object, ...]:
    return tuple(map(space.get, names))
