"""The distance between the weights of two checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from llamarec.errors import CheckpointError


@dataclass(frozen=True)
class Distance:
    """The distance over all tensors that both checkpoints have in the same shape.

    Attributes:
        norm: L2 norm of all weights of the first checkpoint.
        difference: L2 norm of the difference.
        largest_name: Name of the tensor that differs most; empty if none differs.
        largest: L2 norm of that tensor's difference.
        num_tensors: Number of tensors compared.
        unmatched: One sentence for each tensor that only one checkpoint has or that has two shapes.
    """

    norm: float
    difference: float
    largest_name: str
    largest: float
    num_tensors: int
    unmatched: tuple[str, ...]

    @property
    def relative(self) -> float | None:
        """The difference divided by the norm; None if all weights are zero."""
        return self.difference / self.norm if self.norm else None


def distance(first: Path, second: Path) -> Distance | None:
    """Compares the weights of two checkpoints; None if one has no weights or has them in several files.

    Raises:
        CheckpointError: a file is damaged or would execute code.
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
            raise CheckpointError(f"{name} is not a tensor", expected="a file of weights", found=type(a[name]).__name__)
        if a[name].shape != b[name].shape:
            unmatched.append(f"{name} has shape {list(a[name].shape)} -> {list(b[name].shape)}")
            continue

        # In double precision, because rounding in bfloat16 would hide small differences.
        left, right = a[name].double(), b[name].double()
        norm += float(left.square().sum())
        squares[name] = float((right - left).square().sum())
        count += 1

    largest = max(squares, key=lambda name: squares[name])  # "" if none differs
    total = math.sqrt(math.fsum(squares.values()))
    return Distance(math.sqrt(norm), total, largest, math.sqrt(squares[largest]), count, tuple(unmatched))
