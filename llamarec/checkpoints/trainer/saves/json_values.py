"""Values that JSON does not know, in what a checkpoint keeps as JSON: logs as near as it can, states exactly or not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import TypeAlias

import numpy as np
import torch

from llamarec.checkpoints.trainer.saves.save_errors import NotResumableError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A value that JSON gives back as it is."""


def for_log(value: object) -> Json:
    """A logged value as JSON has it: numbers of numpy and torch as numbers, arrays and sets as lists, others as text.

    >>> for_log({"loss": np.float32(0.5), "labels": {2, 1}, 3: float("inf")})
    {'loss': 0.5, 'labels': [1, 2], '3': inf}
    """
    if isinstance(value, str):
        # Half a character can be written as JSON, and is refused by every reader.
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, torch.Tensor):
        return for_log(value.detach().cpu().tolist())
    if isinstance(value, np.ndarray | np.generic):
        return for_log(value.tolist())
    if isinstance(value, Mapping):
        return {str(for_log(name)): for_log(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [for_log(item) for item in value]
    if isinstance(value, set | frozenset):
        return _sorted(for_log(item) for item in value)

    return value.as_posix() if isinstance(value, PurePath) else str(value)


def _sorted(values: Iterable[Json]) -> Json:
    """In an order that is the same in every process."""
    return sorted(values, key=lambda value: (isinstance(value, str), value if _is_number(value) else 0, repr(value)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def check_state(value: object, path: str) -> None:
    """Refuses a state that JSON would give back as another one.

    Args:
        value: What a callback's `state()` returned. A tuple may come back as a list.
        path: Its name, for messages.

    Raises:
        NotResumableError: names the entry.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str):
                raise _unknown(f"{path} has the key {name!r}, which JSON makes a text of", name)
            check_state(item, f"{path}[{name!r}]")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            check_state(item, f"{path}[{number}]")
    elif not _is_plain(value):
        raise _unknown(f"{path} is of a type that JSON does not have", value)


def _is_plain(value: object) -> bool:
    if not (value is None or isinstance(value, bool | int | float | str)):
        return False
    if isinstance(value, str) and for_log(value) != value:
        return False

    # A number of numpy that is Python's float too, or a text of an enumeration, comes back as the same value.
    return json.loads(json.dumps(value)) == value or value != value


def _unknown(problem: str, value: object) -> NotResumableError:
    return NotResumableError(
        problem,
        expected="numbers, texts, lists and dictionaries with texts as keys",
        found=f"{type(value).__name__}: {str(value)[:80]}",
        hint=[
            "convert it in the callback's state(): int(...), list(...), str(...)",
            "or give the object a state_dict and pass it: stateful={name: object}",
        ],
    )
