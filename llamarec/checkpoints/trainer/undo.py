"""State that plain Python code keeps (counters, lists, attributes), copied where it is and put back in place.

A function that adds up over batches keeps its sums somewhere: in a variable of the function around it, in a global one,
in an attribute of its object or of the object's class. All of these are followed. Whatever holds a sum keeps its
identity; a variable or an attribute that came into being is removed.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import functools
import inspect
import logging
import pathlib
import re
import sys
import types
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Final, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from llamarec.checkpoints.trainer.samples.generator_kinds import has_state, is_generator, state_restorer

Restore: TypeAlias = Callable[[], object]
Key = TypeVar("Key")

# More than a sum is: a table that is only looked into.
_ITEMS_LIMIT: Final = 100_000
_BYTES_LIMIT: Final = 2**26
_VALUES: Final = (
    *(bool, int, float, complex, str, bytes, type(None), range, slice, frozenset, np.generic),
    *(torch.dtype, torch.device, torch.Size, enum.Enum, pathlib.PurePath, re.Pattern, logging.Logger),
    *(datetime.date, datetime.timedelta, types.ModuleType, type, types.BuiltinFunctionType, np.ufunc),
)
# Their objects do not count batches; some are as large as a model.
_LIBRARIES: Final = ("transformers", "tokenizers", "accelerate", "peft", "datasets", "llamarec.checkpoints")


class Undo:
    """Copies of everything that the given objects can reach and change.

    Args:
        known: Objects that are put back by other means.

    Attributes:
        unknown: What could not be copied, by its path from the first object; empty if everything was.
    """

    def __init__(self, known: Iterable[object] = ()) -> None:
        self._restores: list[Restore] = []
        self._seen: dict[int, object] = {id(value): value for value in known}
        self._items = self._bytes = 0
        self.unknown: list[str] = []

    def remember(self, value: object, name: str) -> None:
        """Copies what a value holds.

        Args:
            value: A function, an object or a container.
            name: Its name in messages.
        """
        if isinstance(value, _VALUES) or id(value) in self._seen or _is_constant(value):
            return

        self._seen[id(value)] = value
        if isinstance(value, types.FunctionType):
            self._function(value, name)
        elif isinstance(value, types.MethodType):
            self.remember(value.__func__, name)
            self.remember(value.__self__, f"{name}.__self__")
        elif isinstance(value, functools.partial):
            self._all((("func", value.func), ("args", value.args), ("keywords", value.keywords)), name)
        elif is_generator(value) and has_state(value):
            self._restores.append(state_restorer(value))
        elif isinstance(value, torch.Tensor | np.ndarray):
            self._array(value, name)
        elif isinstance(value, list | dict | set | tuple | deque | bytearray):
            self._container(value, name)
        elif type(value).__module__ == "builtins" or not hasattr(value, "__dict__"):
            self.unknown.append(f"{name} (a {type(value).__name__})")
        else:
            self._attributes(value, name)

    def remember_surface(self, owner: object, *, skip: Collection[str] = ()) -> None:
        """Copies the plain attributes of an object that holds much else, and of its class.

        Args:
            owner: The object.
            skip: Attributes that are left as they are.
        """
        attributes, name = vars(owner), type(owner).__name__
        kept = {key: value for key, value in attributes.items() if key not in skip and is_plain(value)}

        self.remember(kept, name)
        self.on_restore(functools.partial(_reset, attributes, kept, frozenset(attributes)))
        self._classes(type(owner))

    def on_restore(self, restore: Restore) -> None:
        """Has something else put back too, after what was remembered before."""
        self._restores.append(restore)

    def restore(self) -> None:
        """Puts everything back."""
        for restore in self._restores:
            restore()

    # ---- By kind ----

    def _function(self, function: types.FunctionType, name: str) -> None:
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                self._restores.append(functools.partial(_clear_cell, cell))
                continue
            self._restores.append(functools.partial(_set_cell, cell, content))
            self.remember(content, variable)

        for variable in _global_names(function.__code__):
            if variable in function.__globals__:
                content = function.__globals__[variable]
                self._restores.append(functools.partial(_set_item, function.__globals__, variable, content))
                self.remember(content, variable)
            else:
                self._restores.append(functools.partial(_remove, function.__globals__, variable))

        self._all((("defaults", function.__defaults__), ("defaults", function.__kwdefaults__)), name)
        self.remember(vars(function), name)

    def _array(self, value: torch.Tensor | NDArray[np.generic], name: str) -> None:
        self._bytes += value.nbytes
        if self._bytes > _BYTES_LIMIT:
            self.unknown.append(f"{name} (too large to be copied)")
        elif isinstance(value, torch.Tensor):
            self._restores.append(functools.partial(value.detach().copy_, value.detach().clone()))
        else:
            self._restores.append(functools.partial(np.copyto, value, value.copy()))

    def _container(
        self,
        value: list[object] | dict[object, object] | set[object] | tuple[object, ...] | deque[object] | bytearray,
        name: str,
    ) -> None:
        self._items += len(value)
        if self._items > _ITEMS_LIMIT:
            self.unknown.append(f"{name} (too large to be copied)")
            return

        if isinstance(value, list | bytearray):
            self._restores.append(functools.partial(value.__setitem__, slice(None), value[:]))
        elif isinstance(value, dict):
            self._restores.append(functools.partial(_refill, value, value.copy()))
        elif isinstance(value, set):
            self._restores += [value.clear, functools.partial(value.update, value.copy())]
        elif isinstance(value, deque):
            self._restores += [value.clear, functools.partial(value.extend, list(value))]

        if isinstance(value, dict):
            self._all(((f"[{key!r}]", item) for key, item in list(value.items())), name)
        elif not isinstance(value, bytearray):
            self._all(((f"[{number}]", item) for number, item in enumerate(list(value))), name)

    def _attributes(self, value: object, name: str) -> None:
        attributes = vars(value)
        self._restores.append(functools.partial(_refill, attributes, dict(attributes)))
        self._all(((f".{attribute}", item) for attribute, item in list(attributes.items())), name)
        self._classes(type(value))

    def _classes(self, cls: type) -> None:
        """What the objects of a program's class share: its plain attributes, and what its methods use."""
        for one in cls.__mro__:
            if id(one) in self._seen or one.__module__.startswith(_LIBRARIES) or _is_of_library(one):
                continue

            self._seen[id(one)] = one
            kept = {key: value for key, value in vars(one).items() if not key.startswith("__") and is_plain(value)}
            self.remember(kept, one.__name__)
            self.on_restore(functools.partial(_reset_class, one, kept, frozenset(vars(one))))
            for key, member in list(vars(one).items()):
                method = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if isinstance(method, types.FunctionType):
                    self.remember(method, f"{one.__name__}.{key}")

    def _all(self, found: Iterable[tuple[str, object]], name: str) -> None:
        for part, value in found:
            self.remember(value, f"{name}{part}")


def is_plain(value: object) -> bool:
    """Whether a value is a number, a text, or a container of such, at its surface."""
    return isinstance(value, bool | int | float | str | type(None) | list | dict | set | deque | torch.Tensor)


def _is_made(before: object, now: object) -> bool:
    """Whether a generator was made where there was nothing: it stays, so that the second try finds it and keys it."""
    return before is None and is_generator(now)


def _refill(mapping: dict[Key, object], before: dict[Key, object]) -> None:
    made = {key: value for key, value in mapping.items() if _is_made(before.get(key), value)}
    mapping.clear()
    mapping.update({**before, **made})


def _set_item(mapping: dict[str, object], name: str, before: object) -> None:
    if not _is_made(before, mapping.get(name)):
        mapping[name] = before


def _remove(mapping: dict[str, object], name: str) -> None:
    if not is_generator(mapping.get(name)):
        mapping.pop(name, None)


def _set_cell(cell: types.CellType, before: object) -> None:
    with contextlib.suppress(ValueError):
        if _is_made(before, cell.cell_contents):
            return

    cell.cell_contents = before


def _reset(attributes: dict[str, object], kept: dict[str, object], names: Collection[str]) -> None:
    for name in attributes.keys() - names:
        _remove(attributes, name)
    for name, value in kept.items():
        _set_item(attributes, name, value)


def _reset_class(cls: type, kept: dict[str, object], names: Collection[str]) -> None:
    for name in vars(cls).keys() - names:
        delattr(cls, name)
    for name, value in kept.items():
        setattr(cls, name, value)


def _clear_cell(cell: types.CellType) -> None:
    with contextlib.suppress(ValueError):
        if not is_generator(cell.cell_contents):
            del cell.cell_contents


def _is_constant(value: object) -> bool:
    """What no evaluation changes: models, data, and objects of the libraries around a Trainer."""
    if isinstance(value, nn.Module):
        # A metric is one without weights.
        return next(value.parameters(), None) is not None

    return isinstance(value, Dataset) or type(value).__module__.startswith(_LIBRARIES) or _is_library_code(value)


def _is_library_code(value: object) -> bool:
    """A function that was imported from a library has nothing to do with this evaluation's sums."""
    return isinstance(value, types.FunctionType) and _is_of_library(value)


def _is_of_library(value: types.FunctionType | type) -> bool:
    """Whether code is Python's, or was installed."""
    if value.__module__ in sys.stdlib_module_names:
        return True

    module = inspect.getmodule(value)
    path = str(getattr(module, "__file__", "") or "")
    return "site-packages" in path or pathlib.Path(path).parts[:-1] == pathlib.Path(inspect.__file__).parts[:-1]


def _global_names(code: types.CodeType) -> set[str]:
    """Names that a function reads or sets outside itself, also in functions that it defines."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return {*code.co_names}.union(*map(_global_names, inner))
