"""Norm, rotary embedding and gated feed-forward part of a Llama layer, forward and backward, into given tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Norm:
    """RMSNorm (arXiv 1910.07467), frozen.

    Attributes:
        weight: [D].
        epsilon: Added to the mean square.
    """

    weight: Tensor
    epsilon: float

    def forward(self, x_LD: Tensor, out_LD: Tensor) -> Tensor:
        """Into `out_LD`; returns 1 / root mean square: [L, 1]."""
        size = x_LD.shape[-1]
        inverse_L1 = torch.linalg.vector_norm(x_LD, dim=-1, keepdim=True).square_().div_(size).add_(self.epsilon).rsqrt_()
        torch.mul(x_LD, inverse_L1, out=out_LD).mul_(self.weight)
        return inverse_L1

    def backward(self, grad_LD: Tensor, x_LD: Tensor, inverse_L1: Tensor, into_LD: Tensor) -> None:
        """Adds the gradient for `x_LD` to `into_LD`; `grad_LD` is used up."""
        grad_LD.mul_(self.weight)
        along_L1 = torch.linalg.vecdot(grad_LD, x_LD)[:, None].mul_(inverse_L1.pow(3)).div_(x_LD.shape[-1])
        into_LD.addcmul_(grad_LD, inverse_L1).addcmul_(x_LD, along_L1, value=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> Tensor:
    """Rotary embedding in halves, as Llama's weights want it (arXiv 2104.09864; Hugging Face's order).

    Args:
        x: [..., K].
        cos: [..., K / 2] cosine of each angle, or a multiple of it.
        sin: [..., K / 2] sine; minus the sine turns back, which is the backward pass.
        out: [..., K].
    """
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


def gate(gate_LF: Tensor, up_LF: Tensor, out_LF: Tensor) -> Tensor:
    """silu(gate) * up (SwiGLU, arXiv 2002.05202); `gate_LF` is used up."""
    return torch.mul(F.silu(gate_LF, inplace=True), up_LF, out=out_LF)


def gate_and_slopes(gate_LF: Tensor, up_LF: Tensor, out_LF: Tensor) -> tuple[Tensor, Tensor]:
    """As `gate`, and the slopes for up and gate in the places of these two: two products are all of the backward pass."""
    slope_LF = torch.ops.aten.silu_backward(up_LF, gate_LF)
    silu_LF = F.silu(gate_LF, inplace=True)
    torch.mul(silu_LF, up_LF, out=out_LF)
    return silu_LF, up_LF.copy_(slope_LF)
