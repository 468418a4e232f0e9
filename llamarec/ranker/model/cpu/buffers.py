"""Memory that one prompt leaves to the next.

A prompt's activations are a gigabyte in pieces of a few megabytes. The C library would allocate new pages for each
piece, which the system must clear and map. Here the pieces have names and share one block, which the next prompt
reuses. On Linux the block is in huge pages, so that a pass over it does not wait for page tables.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import Final

import torch
from torch import Tensor

# Pieces start at multiples of it, which suits vector instructions.
_ALIGNED: Final = 64
_HUGE_PAGE: Final = 2**21
_SMALLEST_AREA: Final = 2**16


class Buffers:
    """Tensors by name in one block of memory, for one thread at a time."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._used = 0
        self._pieces: dict[tuple[object, torch.dtype], Tensor] = {}
        # The last view of each piece: layers ask for the same shapes in turn, and making a view takes time.
        self._views: dict[tuple[object, torch.dtype], tuple[tuple[int, ...], Tensor]] = {}

    def begin(self) -> None:
        """Forgets all names; tensors taken before must not be used any more."""
        self._pieces.clear()
        self._views.clear()
        if len(self._blocks) > 1:
            # The last prompt was the longest so far. Its blocks are freed first, so that old and new never coexist.
            size = self.num_bytes
            self._blocks.clear()
            self._blocks.append(_allocated(size))
        self._used = 0

    def take(self, name: object, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A contiguous tensor of this shape with arbitrary content."""
        key = (name, dtype)
        last = self._views.get(key)
        if last is not None and last[0] == shape:
            return last[1]
        size = math.prod(shape) * dtype.itemsize
        piece = self._pieces.get(key)
        if piece is None or piece.numel() < size:
            piece = self._pieces[key] = self._piece(size)
        view = piece[:size].view(dtype).view(shape)
        self._views[key] = shape, view
        return view

    @property
    def num_bytes(self) -> int:
        """Bytes of all blocks."""
        return sum(block.numel() for block in self._blocks)

    def _piece(self, size: int) -> Tensor:
        aligned = -(-size // _ALIGNED) * _ALIGNED
        if not self._blocks or self._used + aligned > self._blocks[-1].numel():
            self._blocks.append(_allocated(aligned))
            self._used = 0
        self._used += aligned
        return self._blocks[-1][self._used - aligned : self._used - aligned + size]


def _allocated(size: int) -> Tensor:
    """[size] bytes, returned to the system when freed; the C library would keep small areas."""
    if size >= _SMALLEST_AREA and hasattr(mmap, "MADV_HUGEPAGE"):
        # If the system refuses, torch's own error is clearer.
        with contextlib.suppress(OSError):
            return _area(size)
    return torch.empty(size, dtype=torch.uint8)


def _area(size: int) -> Tensor:
    """Memory from the system, in huge pages if it has them."""
    huge = size >= _HUGE_PAGE
    # One huge page more, so that the area can start at a page border.
    area = mmap.mmap(-1, size + (_HUGE_PAGE if huge else 0))
    whole = torch.frombuffer(area, dtype=torch.uint8)
    if not huge:
        return whole
    with contextlib.suppress(OSError):
        area.madvise(mmap.MADV_HUGEPAGE)
    start = -whole.data_ptr() % _HUGE_PAGE
    return whole[start : start + size]
