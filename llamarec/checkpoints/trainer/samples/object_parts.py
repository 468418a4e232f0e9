"""What an object holds, by kind: attributes, slots, closures, the globals that code names, items of containers.

Nothing of a program is called: no property, no `__getattr__`, no `__len__`. What may hold something else later is
watched.
"""

from __future__ import annotations

import contextvars
import dis
import functools
import gc
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from types import (
    AsyncGeneratorType,
    BuiltinMethodType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    NoneType,
    TracebackType,
)
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

Part: TypeAlias = tuple[str, object]
"""Its label behind the path of its owner (".rng"), or an absolute one that begins with "@"."""
Values: TypeAlias = Callable[[], Iterable[object]]
Watch: TypeAlias = Callable[[Values], None]

FRAME: Final = "<frame>"
SET: Final = "<set>"
# Longer containers are data, unless they hold objects with attributes (the parts of a concatenation).
_MAX_ITEMS: Final = 256
_MAX_PARTS: Final = 4_096
# Of a longer one, so many items are looked into.
_SAMPLED: Final = 16
# Short containers are watched even if nothing but numbers is in them: they may be filled later.
_SHORT: Final = 16
_LEAF_TYPES: Final = frozenset(
    {
        *(str, bytes, bytearray, int, float, complex, bool, NoneType, range, slice, CodeType),
        *(torch.dtype, torch.device),
        # Through these, an exception that is kept leads to the variables of every call that it went through.
        *(TracebackType, FrameType),
    }
)
_LEAVES: Final = (
    *(torch.Tensor, np.ndarray, np.generic, ModuleType, PurePath, str, bytes),
    # One of each for the whole process, with the data loaders of every training in it.
    *(GradientState, PartialState, AcceleratorState),
)
_BOUND: Final = (MethodType, BuiltinMethodType, MethodWrapperType)
_RUNNING: Final = (GeneratorType, CoroutineType, AsyncGeneratorType)
# Iterators and the like, of which only the garbage collector knows what they hold.
_OPAQUE_MODULES: Final = ("builtins", "itertools", "functools", "operator", "_operator", "_functools")
_OURS: Final = __name__.partition(".")[0]
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_OF_MODULES: Final = frozenset(vars(nn.Module()))
_HOOKS: Final = tuple(sorted(name for name in _OF_MODULES if name.endswith("hooks")))
_FILLED: Final = ("_modules", *_HOOKS)
_IMPORTS: Final = dis.opmap["IMPORT_NAME"]


def is_leaf(value: object) -> bool:
    """Whether nothing is to be looked for in a value: a number, a text, a tensor, a module."""
    return type(value) in _LEAF_TYPES or isinstance(value, _LEAVES)


def parts_of(value: object, watch: Watch) -> Iterator[Part]:
    """What an object holds, without calling its code.

    Args:
        value: Any object.
        watch: Called with functions that give what the object holds at another time.
    """
    if isinstance(value, FunctionType):
        yield from _of_function(value, watch)
    elif isinstance(value, type):
        yield from _of_class(value, watch)
    elif isinstance(value, functools.partial):
        yield from (("", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, _BOUND):
        yield from (("", value.__self__), ("()", getattr(value, "__func__", None)))
    elif isinstance(value, dict):
        yield from _of_dict(value, watch)
    elif isinstance(value, list | tuple | deque):
        yield from _of_sequence(value, watch)
    elif isinstance(value, _RUNNING):
        yield from _of_frame(value)
    elif isinstance(value, set | frozenset):
        # Their order differs between processes.
        yield from ((SET, child) for child in (list(value) if len(value) <= _MAX_ITEMS else []))
    elif isinstance(value, contextvars.ContextVar):
        watch(lambda: (value.get(None),))
        yield ".get()", value.get(None)
    elif type(value).__module__ in _OPAQUE_MODULES or isinstance(value, MappingProxyType):
        yield from _of_opaque(value, watch)

    if not isinstance(value, type):
        yield from _of_instance(value, watch)


# ---- Objects with attributes ----


def _of_instance(value: object, watch: Watch) -> Iterator[Part]:
    # The attributes of a thread's own object are known to its class only.
    read_attribute = threading.local.__getattribute__ if isinstance(value, threading.local) else object.__getattribute__
    try:
        attributes = read_attribute(value, "__dict__")  # type: ignore[arg-type]
    except (AttributeError, TypeError):
        attributes = None

    if isinstance(value, nn.Module) and isinstance(attributes, dict):
        watch(functools.partial(_watched_of_module, attributes))
        yield from _module_parts(attributes)
    elif isinstance(attributes, dict):
        watch(attributes.values)
        yield from ((f".{name}", child) for name, child in list(attributes.items()))

    for cls in type(value).__mro__:
        if "__slots__" in cls.__dict__:
            slots = {name: slot for name, slot in vars(cls).items() if isinstance(slot, MemberDescriptorType)}
            read_slots = functools.partial(_slot_values, value, tuple(slots.values()))
            watch(read_slots)
            yield from ((f".{name}", child) for name, child in zip(slots, read_slots(), strict=True))

    if is_program(type(value)):
        yield "", type(value)


def _module_parts(attributes: Mapping[str, object]) -> list[Part]:
    """Of a torch module: what its class adds, the modules in it, and its hooks and those of its parameters."""
    found: list[Part] = []
    for kind in ("_modules", "_parameters"):
        children = attributes.get(kind)
        for name, child in list(children.items()) if isinstance(children, dict) else []:
            if kind == "_modules":
                found.append((f".{name}", child))
            elif hooks := getattr(child, "_backward_hooks", None):
                found.append((f".{name}._backward_hooks", hooks))

    found += [(f".{name}", child) for name, child in list(attributes.items()) if name not in _OF_MODULES]
    return found + [(f".{name}", attributes[name]) for name in _HOOKS if attributes.get(name)]


def _watched_of_module(attributes: Mapping[str, Any]) -> list[object]:
    """What tells whether the parts of a torch module have changed; asked in each step, of every module."""
    values = list(attributes.values())
    for name in _FILLED:
        if children := attributes.get(name):
            values += children.values()
    for parameter in (attributes.get("_parameters") or {}).values():
        if parameter is not None and parameter._backward_hooks:
            values += parameter._backward_hooks.values()

    return values


def _of_class(cls: type, watch: Watch) -> Iterator[Part]:
    for one in filter(is_program, cls.__mro__):
        members = vars(one)
        watch(members.values)
        for name, member in list(members.items()):
            # What a property or a method calls, without calling it.
            member = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if not name.startswith("__") or isinstance(member, FunctionType):
                yield f"@{one.__qualname__}.{name}", member


# ---- Code ----


def _of_function(function: FunctionType, watch: Watch) -> Iterator[Part]:
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        read = functools.partial(_cell_values, cell)
        watch(read)
        yield from ((f".{name}", child) for child in read())

    yield ".__defaults__", function.__defaults__
    yield ".__kwdefaults__", function.__kwdefaults__

    if is_program(function):
        names = sorted(_names(function.__code__))
        read_globals = functools.partial(_named_globals, function, names, _imports(function.__code__))
        watch(lambda: [child for _, child in read_globals()])
        yield from read_globals()


def _named_globals(function: FunctionType, names: list[str], imports: bool) -> list[Part]:
    """The globals that code names, and what it names in a program's own modules (`utils.RNG`)."""
    space = function.__globals__
    module = str(space.get("__name__", "")).replace("__mp_main__", "__main__")
    found = [(f"@{module}.{name}", space[name]) for name in names if name in space]

    modules = [value for _, value in found if isinstance(value, ModuleType)]
    if imports:
        package = space.get("__package__") or ""
        modules += [sys.modules[path] for name in names for path in (name, f"{package}.{name}") if path in sys.modules]

    seen: set[int] = set()
    while modules:
        one = modules.pop()
        if id(one) in seen or not is_program_module(one.__name__):
            continue

        seen.add(id(one))
        inner = [(f"@{one.__name__}.{name}", vars(one)[name]) for name in names if name in vars(one)]
        modules += [value for _, value in inner if isinstance(value, ModuleType)]
        found += inner

    return found


def _of_frame(value: object) -> Iterator[Part]:
    """The variables of a generator that is suspended."""
    frame = next((one for name in ("gi_frame", "cr_frame", "ag_frame") if (one := getattr(value, name, None))), None)
    if frame is not None:
        yield from ((f"{FRAME}.{name}", child) for name, child in dict(frame.f_locals).items())


def _of_opaque(value: object, watch: Watch) -> Iterator[Part]:
    """What an iterator of Python's own, a cached function or a view holds."""
    watch(functools.partial(gc.get_referents, value))
    label = FRAME if hasattr(type(value), "__next__") else ""
    referents = [child for child in gc.get_referents(value) if not isinstance(child, type)]
    yield from ((f"{label}<{number}>", child) for number, child in enumerate(referents))


# ---- Containers ----


def _of_dict(value: dict[object, object], watch: Watch) -> Iterator[Part]:
    items = list(dict.items(value)) if dict.__len__(value) <= _MAX_ITEMS else []
    if len(items) <= _SHORT or not all(is_leaf(child) for _, child in items):
        watch(functools.partial(dict.values, value))
    for number, (key, child) in enumerate(items):
        # A number is a worker's or an epoch's; the text of another key may hold an address.
        yield (
            f"{{{key}}}" if isinstance(key, int) else f"[{key!r}]" if isinstance(key, str) else f"[#{number}]",
            child,
        )


def _of_sequence(value: list[object] | tuple[object, ...] | deque[object], watch: Watch) -> Iterator[Part]:
    items = _items_of(value)
    if len(items) > _MAX_ITEMS and (len(items) > _MAX_PARTS or not _has_attributes(items[0])):
        return

    if not isinstance(value, tuple) and (len(items) <= _SHORT or not all(map(is_leaf, items))):
        watch(functools.partial(_items_of, value))
    yield from ((f"[{number}]", child) for number, child in enumerate(items))


def too_long(value: object) -> list[Part]:
    """A few items of a container that is taken for data because of its length; none of any other."""
    items: list[object] = []
    if isinstance(value, dict) and dict.__len__(value) > _MAX_ITEMS:
        items = list(dict.values(value))
    elif isinstance(value, list | tuple | deque):
        items = _items_of(value)
        if len(items) <= _MAX_ITEMS or (len(items) <= _MAX_PARTS and _has_attributes(items[0])):
            return []

    step = max(len(items) // _SAMPLED, 1)
    return [(f"[{number}]", items[number]) for number in range(0, len(items), step)]


def _has_attributes(value: object) -> bool:
    return any("__dict__" in vars(cls) for cls in type(value).__mro__)


def _items_of(value: list[object] | tuple[object, ...] | deque[object]) -> list[object]:
    """Items, though a subclass may have an iterator of its own."""
    if isinstance(value, list):
        return list(list.__iter__(value))
    return list(tuple.__iter__(value)) if isinstance(value, tuple) else list(deque.__iter__(value))


# ---- Single values ----


def is_program(value: type | FunctionType) -> bool:
    """Whether this is code of a program, and not of Python or of an installed library."""
    return is_program_module(str(getattr(value, "__module__", None) or ""))


def is_program_module(name: str) -> bool:
    return not _is_library(name.partition(".")[0])


@functools.cache
def _is_library(package: str) -> bool:
    """Whether a package is of Python, is installed beside it, or is this one.

    Its code draws from the global generators, or from objects that the walk reaches by attributes. What functions of
    a library name leads to thousands of objects, none of them the program's.
    """
    if package in sys.stdlib_module_names and package != "__main__":
        return True

    if package == _OURS:
        return True

    module = sys.modules.get(package)
    file = getattr(module, "__file__", None)
    places = [Path(file)] if file else [Path(path, "__init__.py") for path in getattr(module, "__path__", [])]
    return any(map(_is_installed, places))


def _is_installed(file: Path) -> bool:
    """Whether an installer put a package there: into an environment's folder, or into one that it was told."""
    folder = file.parent.parent if file.name == "__init__.py" else file.parent
    return bool(_INSTALLED & set(file.parts)) or next(folder.glob("*.dist-info"), None) is not None


def _names(code: CodeType) -> set[str]:
    """Globals and attributes that code names, in the functions within it too."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _imports(code: CodeType) -> bool:
    """Whether code imports something when it runs."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return _IMPORTS in code.co_code[::2] or any(map(_imports, inner))


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
