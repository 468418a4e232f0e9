"""How long a step takes: the operations of the model's shape against what this device does in a moment's trial."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from llamarec.planning.setup import Setup
from llamarec.planning.shape import ModelShape

_TRIAL_SECONDS: Final = 0.3
_TRIAL_TOKENS: Final = 512
# What training reaches of the rate of bare products; the rest goes to norms, softmax, dropout and moving numbers.
_REACHED_ON_CPU: Final = 0.6
_REACHED_ON_GPU: Final = 0.45
# Starting the kernels of one layer, whatever they work on.
_SECONDS_PER_LAYER: Final = 5e-4
# Unpacking a 4-bit weight for its product, in operations that would take as long: hundreds of tokens' worth.
UNPACKING_TOKENS: Final = 256


@dataclass(frozen=True)
class Speed:
    """What a device does.

    Attributes:
        operations: Of bare products, per second.
        is_gpu: Where they run.
    """

    operations: float
    is_gpu: bool


def tried(shape: ModelShape, setup: Setup) -> Speed:
    """Multiplies matrices of the model's own size for a moment, in the precision of the training."""
    import torch

    device = torch.device("cuda" if setup.on_gpu else "cpu")
    dtype = torch.bfloat16 if setup.computes_bf16 else torch.float32
    left = torch.ones(_TRIAL_TOKENS, shape.hidden, dtype=dtype, device=device)
    right = torch.ones(shape.hidden, shape.intermediate, dtype=dtype, device=device)
    _seconds_of_product(left, right)  # the first one loads or generates its code
    seconds: list[float] = []
    ends = time.perf_counter() + _TRIAL_SECONDS
    while not seconds or time.perf_counter() < ends:
        seconds.append(_seconds_of_product(left, right))
    # The best of them, for others may be at work here now.
    return Speed(2.0 * left.numel() * shape.intermediate / min(seconds), setup.on_gpu)


def _seconds_of_product(left: Any, right: Any) -> float:
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
        speed: Of the device.
        shape: Of the model.
        setup: How it is loaded.
        tokens: Computed, padding included.
        length: Of a prompt.
        passes: In forward passes: 1 for an evaluation, 2 for a step (frozen matrices have no gradients of their own), 3
            with checkpointing.
    """
    unpacking = UNPACKING_TOKENS * 2.0 * shape.linear_weights if setup.precision == "nf4" else 0.0
    operations = tokens * shape.forward_operations(length) + unpacking
    reached = _REACHED_ON_GPU if speed.is_gpu else _REACHED_ON_CPU
    return passes * (operations / (reached * speed.operations) + shape.layers * _SECONDS_PER_LAYER)
