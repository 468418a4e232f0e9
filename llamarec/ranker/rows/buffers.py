"""Memory that one prompt leaves to the next.

A prompt's activations are a gigabyte in pieces of a few megabytes. From the C library each piece would be new pages,
which the system must clear and map first; here every piece has a name, and the next prompt finds it as the last one
left it.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Buffers:
    """Tensors by name. One thread at a time."""

    def __init__(self) -> None:
        self._flat: dict[tuple[object, ...], Tensor] = {}

    def take(self, name: object, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A contiguous tensor of this shape, whose numbers are what was there before."""
        count = 1
        for size in shape:
            count *= size
        key = (name, dtype)
        flat = self._flat.get(key)
        if flat is None or flat.numel() < count:
            # The smaller one first: never both.
            self._flat.pop(key, None)
            flat = self._flat[key] = torch.empty(count, dtype=dtype)
        return flat[:count].view(shape)

    @property
    def num_bytes(self) -> int:
        """Of all of them."""
        return sum(flat.numel() * flat.element_size() for flat in self._flat.values())
