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
        """Writes into `out_LD`; returns [L, 1], 1 / root mean square."""
        length_L1: Tensor = torch.linalg.vector_norm(x_LD, dim=-1, keepdim=True)
        inverse_L1 = length_L1.square_().div_(x_LD.shape[-1]).add_(self.epsilon).rsqrt_()
        self.again(x_LD, inverse_L1, out_LD)
        return inverse_L1

    def again(self, x_LD: Tensor, inverse_L1: Tensor, out_LD: Tensor) -> Tensor:
        """Repeats `forward` into `out_LD`, from what it returned."""
        return torch.mul(x_LD, inverse_L1, out=out_LD).mul_(self.weight)

    def backward(self, grad_LD: Tensor, x_LD: Tensor, inverse_L1: Tensor, into_LD: Tensor) -> None:
        """Adds the gradient of `x_LD` to `into_LD`; `grad_LD` is overwritten."""
        grad_LD.mul_(self.weight)
        along_L1 = torch.linalg.vecdot(grad_LD, x_LD)[:, None].mul_(inverse_L1.pow(3)).div_(x_LD.shape[-1])
        into_LD.addcmul_(grad_LD, inverse_L1).addcmul_(x_LD, along_L1, value=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> Tensor:
    """Rotary embedding in halves (arXiv 2104.09864), in the order of Hugging Face's Llama weights.

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


def gate(gate_LF: Tensor, up_LF: Tensor, slope_LF: Tensor | None) -> Tensor:
    """silu(gate) * up (SwiGLU, arXiv 2002.05202), written into `up_LF`.

    `gate_LF` receives silu(gate), the derivative for up, and `slope_LF` the derivative for gate, so that the backward
    pass is only two products.
    """
    if slope_LF is not None:
        torch.ops.aten.silu_backward.grad_input(up_LF, gate_LF, grad_input=slope_LF)
    return up_LF.mul_(F.silu(gate_LF, inplace=True))
