"""What the machine itself can do: the limit that figures are fractions of."""

from __future__ import annotations

import time
from typing import Any, Final

import torch

_SIZE: Final = 2048
_SIZE_ON_GPU: Final = 8192


def matmul_rate(dtype: torch.dtype, device: str = "cpu", seconds: float = 1.0) -> float:
    """Measured rate of a large square product, in floating-point operations per second: the best of those in a time."""
    size = _SIZE_ON_GPU if device == "cuda" else _SIZE
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until or not best:
        started = time.perf_counter()
        left @ right
        synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def synchronize(device: str) -> None:
    """Waits for what a GPU was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def multiplied_weights(model: Any) -> int:
    """Weights that every token is multiplied with: all of the base model's but the embedding (and the output rows).

    NF4 holds two weights a byte.
    """
    total = 0
    for name, parameter in model.named_parameters():
        if "lora_" in name or "embed_tokens" in name or "lm_head" in name:
            continue
        packed = getattr(parameter, "quant_state", None)
        total += packed.shape.numel() if packed is not None else parameter.numel()
    return total


def needed_flops(weights: int, tokens: int, *, training: bool) -> float:
    """Operations that real tokens need: 2 a weight and token forward; 4 with the way back through frozen weights."""
    return float((4 if training else 2) * weights * tokens)
