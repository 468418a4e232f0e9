"""A tensor's bytes: copied, compared and sampled, whatever it is made of.

Tensors that are made of others, as quantised optimizer states are, follow torch's protocol for such classes
(`__tensor_flatten__`) and few operations beside it: they are copied and compared part by part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def is_made_of_tensors(value: Tensor) -> bool:
    """Whether a tensor is of a class that holds other tensors."""
    return is_traceable_wrapper_subclass(value)


def parts_of(value: Tensor) -> list[Tensor]:
    """The tensors that one is made of, in the order of its class."""
    whole: Any = value
    names, _ = whole.__tensor_flatten__()
    return [getattr(whole, name) for name in names]


def copy_of_tensor(value: Tensor, device: torch.device | str | None = None) -> Tensor:
    """A detached copy.

    Args:
        value: Of any class.
        device: Of the copy; the same by default.
    """
    if not is_made_of_tensors(value):
        return value.detach().to(device or value.device, copy=True)

    whole: Any = value.detach()
    names, context = whole.__tensor_flatten__()
    parts = {name: copy_of_tensor(getattr(whole, name), device) for name in names}
    copy: Tensor = type(whole).__tensor_unflatten__(parts, context, whole.shape, whole.stride())
    return copy


def bytes_of(value: Tensor) -> NDArray[np.uint8]:
    """A tensor's values as bytes [num_bytes] on the CPU, in the order of its elements."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same shape, type and bits; NaN is equal to itself."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if is_made_of_tensors(a) or is_made_of_tensors(b):
        return type(a) is type(b) and all(
            same_tensor(one, other) for one, other in zip(parts_of(a), parts_of(b), strict=True)
        )

    a, b = a.detach().contiguous().reshape(-1), b.detach().contiguous().reshape(-1)
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def some_values(value: Tensor, count: int) -> Tensor:
    """At most `count` of a tensor's values [count], at equal distances from its first."""
    flat = value.detach().reshape(-1)
    return flat[:: max(flat.numel() // count, 1)][:count]
