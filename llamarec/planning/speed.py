"""How long a step takes: the operations of the model's shape, at the rate of a short trial on this device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llamarec.planning.setup import Setup
from llamarec.planning.shape import ModelShape

if TYPE_CHECKING:
    from torch import Tensor

_TRIAL_SECONDS: Final = 0.3
_TRIAL_TOKENS: Final = 512
# Share of the rate of bare products that training reaches; norms, softmax, dropout and copies take the rest.
_REACHED_ON_CPU: Final = 0.6
_REACHED_ON_GPU: Final = 0.45
# Starting the kernels of one layer, whatever their sizes.
_SECONDS_PER_LAYER: Final = 5e-4


@dataclass(frozen=True)
class Speed:
    """The speed of a device.

    Attributes:
        operations: Operations per second of bare products.
        is_gpu: Whether they run on a GPU.
    """

    operations: float
    is_gpu: bool


def measure_speed(shape: ModelShape, setup: Setup) -> Speed:
    """The rate of products of the model's own size, in the precision of training, measured for a moment."""
    import torch

    device = torch.device("cuda" if setup.on_gpu else "cpu")
    dtype = torch.bfloat16 if setup.computes_bf16 else torch.float32
    left = torch.ones(_TRIAL_TOKENS, shape.hidden, dtype=dtype, device=device)
    right = torch.ones(shape.hidden, shape.intermediate, dtype=dtype, device=device)

    _seconds_of_product(left, right)  # the first product loads or generates its code
    seconds: list[float] = []
    ends = time.perf_counter() + _TRIAL_SECONDS
    while not seconds or time.perf_counter() < ends:
        seconds.append(_seconds_of_product(left, right))

    # The best time, because other programs may be running.
    return Speed(2.0 * left.numel() * shape.intermediate / min(seconds), setup.on_gpu)


def _seconds_of_product(left: Tensor, right: Tensor) -> float:
    import torch

    started = time.perf_counter()
    torch.mm(left, right)
    if left.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def seconds_of_pass(
    speed: Speed, shape: ModelShape, setup: Setup, *, tokens: float, length: float, passes: float
) -> float:
    """Seconds of a micro-batch.

    Args:
        speed: Speed of the device.
        shape: Shape of the model.
        setup: How the model is loaded.
        tokens: Tokens of the micro-batch, padding included.
        length: Tokens of a prompt.
        passes: Work in forward passes: 1 for an evaluation, 2 for a step (frozen matrices need no gradients), 3 with
            checkpointing.
    """
    unpacking = setup.unpacking_tokens * 2.0 * shape.linear_weights
    operations = tokens * shape.forward_operations(length) + unpacking
    reached = _REACHED_ON_GPU if speed.is_gpu else _REACHED_ON_CPU
    return passes * (operations / (reached * speed.operations) + shape.layers * _SECONDS_PER_LAYER)
