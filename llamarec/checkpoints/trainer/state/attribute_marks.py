"""One attribute before training, by which a change is seen at little cost; and copies of large ones without a copy."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from llamarec.checkpoints.trainer.samples.object_parts import is_leaf
from llamarec.checkpoints.trainer.state.plain_containers import Array, NotPlainError, Plain, encoded

LARGE_BYTES: Final = 2**24
"""A tensor from here on is not copied at every boundary."""
_SAMPLED: Final = 16
# On the CPU, so many values are compared at every boundary.
_COMPARED: Final = 4_096
# Longer containers are data: their length and some of their items are looked at.
_MAX_ITEMS: Final = 20_000
_FLAT: Final = (list, tuple, dict, deque, set, OrderedDict, defaultdict)
_STARTED: Final = time.time()


class Shared(NamedTuple):
    """A tensor that is held instead of copied: what replaces it leaves it as it is.

    Attributes:
        tensor: It, outside of any graph.
        version: Torch's count of its changes in place.
    """

    tensor: Tensor
    version: int

    @property
    def is_intact(self) -> bool:
        """Whether nothing has changed it since."""
        return self.tensor._version == self.version


class OfOneStepError(NotPlainError):
    """A large tensor that belongs to the graph of one step."""


def snapshot_of(value: object) -> Plain:
    """A copy as plain values, with large tensors held.

    Raises:
        OfOneStepError: it is large, and has a graph.
        NotPlainError: it is none.
    """
    return encoded(value, tensor=_shared_or_copied, limited=False)


def _shared_or_copied(value: Tensor) -> Plain:
    if _bytes_in(value) < LARGE_BYTES:
        return value.detach().clone()
    if value.grad_fn is not None:
        raise OfOneStepError

    return Shared(value.detach(), value._version)


def resolved(value: Plain, shared: Callable[[Shared], Plain]) -> Plain:
    """A copy with something else in the position of each tensor that is held."""
    if isinstance(value, Shared):
        return shared(value)
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: resolved(item, shared) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [resolved(item, shared) for item in value]
        return items if isinstance(value, list) else tuple(items)

    return value


def large_bytes_in(value: Plain) -> int:
    """Size of the tensors that are held."""
    if isinstance(value, Shared):
        return _bytes_in(value.tensor)

    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(large_bytes_in, items))


def tensors_in(value: object) -> list[Tensor]:
    """The live tensors of a plain value."""
    found: list[Tensor] = []
    encoded(value, tensor=found.append, array=_of_array, limited=False)
    return found


def is_moment(value: object) -> bool:
    """Whether a number is a time of day within this process: where a clock was started, which is no state."""
    return type(value) is float and _STARTED <= value <= time.time() + 1


@dataclass(kw_only=True)
class Mark:
    """A value as it was.

    Attributes:
        live: The value itself.
        plain: A copy; None where it is data.
        flat: A shallow copy of a container of numbers and texts.
        tensors: Held, so that no other has the id of one.
        quick: What a change shows in at a boundary.
        full: What it shows in before a save.
    """

    live: object
    plain: Plain | None
    flat: object = None
    tensors: list[Tensor] = field(default_factory=list)
    quick: Plain = None
    full: Plain = None

    @staticmethod
    def of(value: object) -> Mark:
        """Of a plain value.

        Raises:
            NotPlainError: it is none.
        """
        if is_leaf(value) and not isinstance(value, Tensor | np.ndarray):
            return Mark(live=value, plain=encoded(value))
        if _is_long(value):
            return Mark(live=value, plain=None, quick=_ends_of(value))

        mark = Mark(live=value, plain=snapshot_of(value), flat=_flat_copy(value))
        if mark.flat is None:
            mark.tensors = tensors_in(value)
            mark.quick, mark.full = _sketch(value, full=False), _sketch(value, full=True)
        return mark

    @property
    def is_data(self) -> bool:
        """Whether it is too long for a copy."""
        return self.plain is None and self.live is not None

    @property
    def may_change_in_place(self) -> bool:
        """Whether the same object may be another value."""
        return self.flat is not None or self.quick is not None

    def differs(self, value: object, *, full: bool) -> bool:
        """Whether a value is another one than this."""
        if type(value) is not type(self.live):
            return True
        if not self.may_change_in_place:
            return not (value is self.live or value == self.live)
        if self.is_data:
            return not _is_long(value) or self.quick != _ends_of(value)
        if self.flat is not None:
            return not _equal(value, self.flat)

        try:
            return bool((self.full if full else self.quick) != _sketch(value, full=full))
        except NotPlainError:
            return True


def _is_long(value: object) -> bool:
    return type(value) in _FLAT and len(value) > _MAX_ITEMS  # type: ignore[arg-type]


def _ends_of(value: object) -> Plain:
    if isinstance(value, list | tuple | deque):
        step = max(len(value) // _SAMPLED, 1)
        return len(value), [id(value[number]) for number in range(0, len(value), step)]

    return len(value)  # type: ignore[arg-type]


def _flat_copy(value: object) -> object:
    """A shallow copy, where that is all of it."""
    if type(value) not in _FLAT:
        return None

    items = value.values() if isinstance(value, dict) else value
    return copy(value) if all(is_leaf(item) and not _is_array(item) for item in items) else None  # type: ignore[attr-defined]


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _equal(value: object, flat: object) -> bool:
    try:
        return bool(value == flat)
    except Exception:
        # A tensor has come in.
        return False


def _sketch(value: object, *, full: bool) -> Plain:
    """Plain values that differ where the value does; of large tensors, where a few of their values do."""
    return repr(encoded(value, tensor=partial(_of_tensor, full=full), array=_of_array, limited=False))


def _of_array(value: Array) -> Plain:
    flat = np.asarray(value).reshape(-1)
    step = max(flat.size // _SAMPLED, 1) if flat.size > _COMPARED else 1
    return flat.dtype.str, np.shape(value), flat[::step].tobytes()


def _of_tensor(value: Tensor, *, full: bool) -> Plain:
    seen = id(value), value._version, str(value.dtype), tuple(value.shape)
    if not full and (value.device.type != "cpu" or value.numel() > _COMPARED):
        return seen

    with torch.no_grad():
        flat = value.detach().reshape(-1)
        step = max(flat.numel() // _SAMPLED, 1) if full and flat.numel() > _COMPARED else 1
        return (*seen, flat[::step].cpu().contiguous().view(torch.uint8).numpy().tobytes())


def _bytes_in(value: Tensor) -> int:
    return value.numel() * value.element_size()
