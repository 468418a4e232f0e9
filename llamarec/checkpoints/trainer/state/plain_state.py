"""States of tensors, numbers, texts, lists and dictionaries: copied, checked, compared, and put on their devices.

A copy holds nothing that the safe reader of checkpoints refuses: whatever else is in a state is named by its path.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any, Final, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from llamarec.checkpoints.trainer.state.tensors import bytes_of
from llamarec.errors import CheckpointError

State: TypeAlias = dict[str, Any]
"""What `state_dict` returns."""

_PLAIN: Final = (bool, int, float, str, bytes, type(None))
_TENSORS: Final = (Tensor, nn.Parameter, nn.Buffer)


def copy_of(state: object, name: str) -> State:
    """A copy that nothing else changes; tensors stay on their devices.

    Args:
        state: What `state_dict` returned.
        name: Of the object, for messages.

    Raises:
        CheckpointError: names the first value that is neither tensor, number, text, list nor dictionary.
    """
    if not isinstance(state, dict):
        raise _unsafe(name, state)

    return cast(State, _copied(state, name))


def _copied(value: object, name: str) -> object:
    if type(value) in _TENSORS and isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta:
        return value.detach().clone()
    if type(value) in (dict, OrderedDict) and isinstance(value, dict):
        for key in value:
            if type(key) not in _PLAIN:
                raise _unsafe(f"{name}, key {key!r}", key)
        return {key: _copied(item, f"{name}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple) and isinstance(value, list | tuple):
        items = (_copied(item, f"{name}[{number}]") for number, item in enumerate(value))
        return list(items) if isinstance(value, list) else tuple(items)
    if type(value) is np.float64:
        # Python's own float, by another name.
        return float(value)

    if type(value) not in _PLAIN:
        raise _unsafe(name, value)
    return value


def _unsafe(name: str, value: object) -> CheckpointError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return CheckpointError(
        f"state_dict() of {name} cannot be saved: it holds a {kind}",
        expected="tensors, numbers, texts, lists, tuples and dictionaries",
        found=f"{kind}: {value!r}"[:200],
        hint="convert it in state_dict(), and back in load_state_dict(): torch.as_tensor(array), float(number), "
        "sorted(set), dict(counter)",
    )


def on_cpu(state: State) -> State:
    """The same with every tensor on the CPU; those that are there already are not copied."""
    return cast(State, _moved(state, None, to_cpu=True))


def on_devices_of(state: State, live: State) -> State:
    """A copy of a state in which each tensor is on the device of the live one at the same path."""
    return cast(State, _moved(state, live, to_cpu=False))


def _moved(value: object, live: object, *, to_cpu: bool) -> object:
    if isinstance(value, Tensor):
        if to_cpu:
            return value.cpu()
        return value.to(live.device if isinstance(live, Tensor) else value.device, copy=True)

    if isinstance(value, dict):
        there = live if isinstance(live, dict) else {}
        return {key: _moved(item, there.get(key), to_cpu=to_cpu) for key, item in value.items()}
    if isinstance(value, list | tuple):
        beside = live if isinstance(live, list | tuple) and len(live) == len(value) else [None] * len(value)
        items = [_moved(item, other, to_cpu=to_cpu) for item, other in zip(value, beside, strict=True)]
        return items if isinstance(value, list) else tuple(items)

    return value


def digest_of(state: object) -> str:
    """Equal for equal states, whichever process asks."""
    found = hashlib.sha256()
    _add(found, state)
    return found.hexdigest()


def _add(found: hashlib._Hash, value: object) -> None:
    if isinstance(value, Tensor):
        found.update(f"{value.dtype}{list(value.shape)}".encode())
        found.update(bytes_of(value).data)
        return

    found.update(f"{type(value).__name__}(".encode())
    if isinstance(value, dict):
        for key, item in value.items():
            found.update(f"{key!r}:".encode())
            _add(found, item)
    elif isinstance(value, list | tuple):
        for item in value:
            _add(found, item)
    else:
        found.update(repr(value).encode())
    found.update(b")")
