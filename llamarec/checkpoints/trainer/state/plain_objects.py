"""Objects that stand for one value, as plain values and back: enums, named tuples, frozen data classes, paths."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import sys
from pathlib import Path, PurePath

import torch


class NotPlainError(Exception):
    """A value that is not made of tensors, numbers, texts and containers of them, or too large a one."""


def described(value: object) -> tuple[str, object, str]:
    """Kind of a value, its content and its class.

    Raises:
        NotPlainError: it is none of these kinds.

    >>> described(complex(1, 2))
    ('complex', (1.0, 2.0), '')
    """
    cls = type(value)
    if isinstance(value, enum.Enum):
        return "enum", value.name, _path_of(cls)
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        return "named tuple", tuple(value), _path_of(cls)
    # This project knows what its own objects need.
    is_own = cls.__module__.partition(".")[0] == "llamarec"
    if dataclasses.is_dataclass(value) and not is_own and cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        content = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        return "data class", content, _path_of(cls)

    if isinstance(value, torch.dtype | torch.device):
        return cls.__name__, str(value).removeprefix("torch."), ""
    if isinstance(value, torch.Size):
        return "size", tuple(value), ""
    if isinstance(value, complex):
        return "complex", (value.real, value.imag), ""
    if isinstance(value, PurePath):
        return "path", str(value), ""
    if isinstance(value, datetime.datetime):
        return "datetime", value.isoformat(), ""
    if isinstance(value, datetime.timedelta):
        return "timedelta", (value.days, value.seconds, value.microseconds), ""

    raise NotPlainError


def remade(kind: str, content: object, path: str, live: object) -> object:
    """The value of a description.

    Args:
        kind: As `described` gave it; likewise `content` and `path`.
        content: Of the value.
        path: Of its class, which is the program's: a file names it, and nothing is imported for it.
        live: What there is now, which may be of that class.

    Raises:
        NotPlainError: the program has no such class, or the class has no such value.
    """
    if kind in ("enum", "named tuple", "data class"):
        return _of_class(kind, content, _class_of(path, live), path)

    made = {
        "dtype": lambda: getattr(torch, str(content)),
        "device": lambda: torch.device(str(content)),
        "size": lambda: torch.Size(content),  # type: ignore[arg-type]
        "complex": lambda: complex(*content),  # type: ignore[misc]
        "path": lambda: Path(str(content)),
        "datetime": lambda: datetime.datetime.fromisoformat(str(content)),
        "timedelta": lambda: datetime.timedelta(*content),  # type: ignore[misc]
    }
    if kind not in made:
        raise NotPlainError(f"a {kind}")

    value: object = made[kind]()
    return value


def _of_class(kind: str, content: object, cls: type, path: str) -> object:
    if kind == "enum" and issubclass(cls, enum.Enum) and str(content) in cls.__members__:
        return cls[str(content)]
    if kind == "named tuple" and issubclass(cls, tuple) and isinstance(content, tuple):
        return tuple.__new__(cls, content)
    if kind == "data class" and dataclasses.is_dataclass(cls) and isinstance(content, dict):
        made = object.__new__(cls)
        for name, value in content.items():
            object.__setattr__(made, name, value)
        return made

    raise NotPlainError(f"{path.partition(':')[2]}: {content}")


def _path_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _class_of(path: str, live: object) -> type:
    if _path_of(type(live)) == path:
        return type(live)

    module, _, qualified = path.partition(":")
    cls: object = sys.modules.get(module)
    for part in qualified.split("."):
        cls = getattr(cls, part, None)
    if isinstance(cls, type):
        return cls

    raise NotPlainError(f"a {qualified}")
