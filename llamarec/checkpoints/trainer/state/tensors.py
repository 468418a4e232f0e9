"""Tensors that are made of others, as quantised optimizer states are: copied and compared part by part.

They follow torch's protocol for such classes (`__tensor_flatten__`), and few operations beside it.
"""

from __future__ import annotations

from typing import Any

import torch
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
