"""One value as it was before training, by which a change is seen at little cost."""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Iterable, Sized
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from llamarec.checkpoints.trainer.samples.object_parts import is_leaf
from llamarec.checkpoints.trainer.state.plain_containers import Array, Plain, decoded, encoded
from llamarec.checkpoints.trainer.state.plain_objects import NotPlainError
from llamarec.checkpoints.trainer.state.tensors import bytes_of, is_made_of_tensors, some_values

_LARGE_BYTES: Final = 2**24
# On the CPU, so many values are compared at every boundary; more of them, or on another device, before a save.
_COMPARED: Final = 4_096
_SAMPLED: Final = 256
# A longer container is compared by its length at a boundary.
_LONG: Final = 1_000


@dataclass(frozen=True, kw_only=True)
class Opaque:
    """A value that is not plain, or too long a one.

    Attributes:
        live: The value itself.
        size: Of a container.
    """

    live: object
    size: int

    @staticmethod
    def of(value: object) -> Opaque:
        """Of any value."""
        return Opaque(live=value, size=_size_of(value))

    def differs(self, value: object) -> bool:
        """Whether it is another one now."""
        return value is not self.live or _size_of(value) != self.size


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A plain value.

    Attributes:
        live: The value itself.
        plain: A copy; of large tensors, these themselves.
        content: The same as a live value, where no tensor is in it.
        tensors: Those in it. They are held, so that no other gets the id of one.
        quick: What a change of a tensor shows in at a boundary.
        full: What it shows in before a save.
        versions: Of the large ones.
    """

    live: object
    plain: Plain
    content: object = None
    tensors: tuple[Tensor | Array, ...] = ()
    quick: Plain = None
    full: Plain = None
    versions: tuple[tuple[Tensor, int], ...] = ()

    @staticmethod
    def of(value: object) -> Mark:
        """Of a plain value.

        Raises:
            NotPlainError: it is none, or has too many items.
        """
        tensors: list[Tensor | Array] = []
        versions: list[tuple[Tensor, int]] = []

        def leaf(one: Tensor | Array) -> Plain:
            tensors.append(one)
            if isinstance(one, Tensor) and is_made_of_tensors(one):
                raise NotPlainError
            if isinstance(one, Tensor) and one.nbytes >= _LARGE_BYTES:
                versions.append((one, one._version))
                return one.detach()
            return encoded(one)["items"] if not isinstance(one, Tensor) else one.detach().clone()

        plain = encoded(value, leaf=leaf, max_bytes=sys.maxsize)
        if not tensors:
            return Mark(live=value, plain=plain, content=value if is_leaf(value) else decoded(deepcopy(plain)))

        return Mark(
            live=value,
            plain=plain,
            tensors=tuple(tensors),
            quick=_sketch(value, full=False),
            full=_sketch(value, full=True),
            versions=tuple(versions),
        )

    @property
    def may_change_in_place(self) -> bool:
        """Whether the same object may be another value."""
        return bool(self.tensors) or not is_leaf(self.live)

    @property
    def is_intact(self) -> bool:
        """Whether the large tensors are as they were."""
        return all(tensor._version == version for tensor, version in self.versions)

    def differs(self, value: object, *, full: bool) -> bool:
        """Whether a value is another one than this."""
        if type(value) is not type(self.live):
            return True

        try:
            if self.tensors:
                return bool((self.full if full else self.quick) != _sketch(value, full=full))
            if not full and value is self.live and _size_of(value) > _LONG:
                return _size_of(value) != _size_of(self.content)
            return not (value == self.content or (value is self.live and is_leaf(value)))
        except Exception:
            # A tensor has come in, or what compares itself in a way of its own.
            return True


class QuietMarks:
    """Values that may change in place and have not, compared in one go, since it is done at every step.

    Args:
        marks: Of all of them.
    """

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._live: list[object] = []
        self._content: list[object] = []
        self._others: list[Mark] = []
        for mark in marks:
            if mark.tensors or _size_of(mark.live) > _LONG:
                self._others.append(mark)
            else:
                self._live.append(mark.live)
                self._content.append(mark.content)

    def are_same(self) -> bool:
        """Whether none has changed."""
        try:
            # No step of Python's own for each of them.
            are_same = all(map(operator.eq, self._live, self._content))
        except Exception:
            # A tensor has come in.
            return False

        return are_same and not any(mark.differs(mark.live, full=False) for mark in self._others)


def tensors_in(value: object) -> list[Tensor]:
    """The live tensors of a plain value; of another, those before what is not plain."""
    found: list[Tensor | Array] = []
    with contextlib.suppress(NotPlainError):
        encoded(value, leaf=found.append, max_items=sys.maxsize, max_bytes=sys.maxsize)
    return [one for one in found if isinstance(one, Tensor)]


def _size_of(value: object) -> int:
    return len(value) if isinstance(value, Sized) and type(value) in (list, tuple, dict, set) else 0


def _sketch(value: object, *, full: bool) -> Plain:
    """What differs where a value with tensors does; of large ones, where a few of their values do."""
    return repr(encoded(value, leaf=lambda one: _sketch_of(one, full=full), max_bytes=sys.maxsize))


def _sketch_of(value: Tensor | Array, *, full: bool) -> Plain:
    if not isinstance(value, Tensor):
        flat = np.asarray(value).reshape(-1)
        step = max(flat.size // _SAMPLED, 1) if flat.size > _COMPARED else 1
        return flat.dtype.str, np.shape(value), flat[::step].tobytes()

    seen = id(value), value._version, str(value.dtype), tuple(value.shape)
    is_small = value.numel() <= _COMPARED
    if not full and (value.device.type != "cpu" or not is_small):
        return seen

    with torch.no_grad():
        some = value.detach() if is_small else some_values(value, _SAMPLED)
        return (*seen, bytes_of(some.cpu()).tobytes())
