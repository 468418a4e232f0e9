"""What the processor can do."""

from __future__ import annotations

import torch


def has_fast_bfloat16() -> bool:
    """Whether this processor (not the GPU) multiplies bfloat16 natively; elsewhere it is slower than float32."""
    # The questions are private in torch; without them float32 is right, only slower.
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in questions)


def has_accelerator() -> bool:
    """Whether torch finds something faster than the processor."""
    return bool(torch.accelerator.is_available())


def has_bfloat16(on_cpu: bool) -> bool:
    """Whether computing in bfloat16 pays, on the processor or on what is faster."""
    if on_cpu:
        return has_fast_bfloat16()
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
