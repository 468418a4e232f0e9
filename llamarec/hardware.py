"""What the hardware supports."""

from __future__ import annotations

import torch


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively; without native support bfloat16 is slower than float32."""
    # These functions of torch are private. If a version lacks them, float32 is correct and only slower.
    queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in queries)


def has_accelerator() -> bool:
    """Whether torch finds an accelerator, such as a GPU."""
    return bool(torch.accelerator.is_available())


def has_bfloat16(on_cpu: bool) -> bool:
    """Whether bfloat16 is fast on the CPU (`on_cpu`) or on the GPU."""
    if on_cpu:
        return has_fast_bfloat16()
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
