"""Memory that one prompt leaves to the next.

A prompt's activations are a gigabyte in pieces of a few megabytes. From the C library each piece would be new pages,
which the system must clear and map first; here every piece has a name, and the next prompt finds it as the last one
left it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Buffers:
    """Tensors by name. One thread at a time."""

    def __init__(self) -> None:
        self._flat: dict[tuple[object, torch.dtype], Tensor] = {}
        # The last view of each: layers ask for the same shapes one after the other, and a view takes a while to make.
        self._views: dict[tuple[object, torch.dtype], tuple[tuple[int, ...], Tensor]] = {}

    def take(self, name: object, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A contiguous tensor of this shape, whose numbers are what was there before."""
        key = (name, dtype)
        last = self._views.get(key)
        if last is not None and last[0] == shape:
            return last[1]
        view = self._enough(key, math.prod(shape))[: math.prod(shape)].view(shape)
        self._views[key] = shape, view
        return view

    def _enough(self, key: tuple[object, torch.dtype], count: int) -> Tensor:
        flat = self._flat.get(key)
        if flat is None or flat.numel() < count:
            # The smaller one goes first, so that there are never both.
            self._flat.pop(key, None)
            self._views.pop(key, None)
            del flat
            flat = self._flat[key] = torch.empty(count, dtype=key[1])
        return flat

    @property
    def num_bytes(self) -> int:
        """Of all of them."""
        return sum(flat.numel() * flat.element_size() for flat in self._flat.values())
