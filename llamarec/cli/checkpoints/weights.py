"""How far the weights of two checkpoints lie apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from llamarec.errors import CheckpointError


@dataclass(frozen=True)
class Distance:
    """Over the tensors that both have, in one shape.

    Attributes:
        norm: L2 norm of all weights of the first.
        difference: L2 norm of the difference.
        largest_name: The tensor that differs most; empty if none does.
        largest: L2 norm of its difference.
        num_tensors: Compared.
        unmatched: Tensors that only one has, or that have another shape; one sentence each.
    """

    norm: float
    difference: float
    largest_name: str
    largest: float
    num_tensors: int
    unmatched: tuple[str, ...]

    @property
    def relative(self) -> float | None:
        """The difference by the norm; None for weights that are all zero."""
        return self.difference / self.norm if self.norm else None


def distance(first: Path, second: Path) -> Distance | None:
    """Compares the weights of two checkpoints; None where one has none, or has them in several files.

    Raises:
        CheckpointError: a file is damaged, or would execute code.
    """
    import torch

    from llamarec.checkpoints.resume.safe_load import load_weights

    a, b = load_weights(first), load_weights(second)
    if a is None or b is None:
        return None
    unmatched = [f"{name} is only in {first.name}" for name in sorted(a.keys() - b.keys())]
    unmatched += [f"{name} is only in {second.name}" for name in sorted(b.keys() - a.keys())]
    squares, norm, count = {"": 0.0}, 0.0, 0
    for name in sorted(a.keys() & b.keys()):
        if not (isinstance(a[name], torch.Tensor) and isinstance(b[name], torch.Tensor)):
            raise CheckpointError(f"{name} is no tensor", expected="a file of weights", found=type(a[name]).__name__)
        if a[name].shape != b[name].shape:
            unmatched.append(f"{name} has shape {list(a[name].shape)} -> {list(b[name].shape)}")
            continue
        # In double precision: differences of bfloat16 weights would drown in its rounding.
        left, right = a[name].double(), b[name].double()
        norm += float(left.square().sum())
        squares[name] = float((right - left).square().sum())
        count += 1
    largest = max(squares, key=lambda name: squares[name])  # "" where none differs
    total = math.sqrt(math.fsum(squares.values()))
    return Distance(math.sqrt(norm), total, largest, math.sqrt(squares[largest]), count, tuple(unmatched))
