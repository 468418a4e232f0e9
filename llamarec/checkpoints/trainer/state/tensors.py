"""A tensor's bytes: copied, compared and sampled, whatever it is made of.

Tensors that are made of others, as quantised optimizer states are, follow torch's protocol for such classes
(`__tensor_flatten__`) and few operations beside it: they are copied and compared part by part.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_KEEPS: Final[ContextVar[bool]] = ContextVar("keeps what is gathered", default=True)


def is_shard(value: object) -> bool:
    """Whether a tensor is spread over processes (a DTensor)."""
    # Where the module is not loaded, there is none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def whole(value: Tensor) -> Tensor:
    """A tensor without sharding; empty inside `gathered(keep=False)`. All processes call this in the same order."""
    if not is_shard(value):
        return value

    shard: Any = value.detach()
    full: Tensor = shard.full_tensor()
    return full if _KEEPS.get() else full.new_empty(0)


@contextlib.contextmanager
def gathered(*, keep: bool) -> Iterator[None]:
    """Within, gathered tensors are kept, or only passed on to the processes that keep them."""
    token = _KEEPS.set(keep)
    try:
        yield
    finally:
        _KEEPS.reset(token)


def sharded_like(like: Tensor, value: Tensor) -> Tensor:
    """This process's part of a whole tensor, spread as another one is; the same tensor where that one is whole."""
    if not is_shard(like) or is_shard(value):
        return value

    from torch.distributed.tensor import distribute_tensor

    one: Any = like
    # Every process has read all of it: nothing is sent.
    return distribute_tensor(value.detach().to(one.device), one.device_mesh, one.placements, src_data_rank=None)


def num_own_bytes(value: Tensor) -> int:
    """Memory that a tensor takes in this process."""
    one: Any = value
    own: Tensor = one.to_local() if is_shard(value) else value
    return own.numel() * own.element_size()


def put_into(live: Tensor, value: Tensor) -> None:
    """Copies a whole tensor into one that may be sharded."""
    live.copy_(sharded_like(live, value.to(live.dtype)) if is_shard(live) else value)


def is_made_of_tensors(value: Tensor) -> bool:
    """Whether a tensor is of a class that holds other tensors, and is no part of a sharded one."""
    return not is_shard(value) and is_traceable_wrapper_subclass(value)


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
    if is_shard(value):
        return value.detach().clone()
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
