"""Cross-entropy over the whole catalogue without ever holding [positions, items].

One step of Beauty has about 800 positions and 12,086 items. Written plainly, every pass over the logits (bias, maximum,
exponential, sum, gradient) goes through memory. Here a block of positions is scored, and its gradients are taken at
once, while it is in the processor's cache. The products are in bfloat16 where the processor multiplies it natively;
sums, exponentials and the loss itself are always float32. Measured in docs/decisions/0002-retriever.md.

    T positions, D width, N items + 1, b positions of a block
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx

_LOG2_E: Final = math.log2(math.e)
_BLOCK_POSITIONS: Final = 64


def catalogue_cross_entropy(
    states_TD: Tensor,
    items_ND: Tensor,
    bias_N: Tensor,
    labels_T: Tensor,
    *,
    smoothing: float = 0.0,
    product_type: torch.dtype,
) -> Tensor:
    """Mean cross-entropy of the labels under softmax(states items^T + bias); a scalar to call backward() on.

    Args:
        states_TD: [positions, width].
        items_ND: [items + 1, width].
        bias_N: [items + 1].
        labels_T: [positions] item ids.
        smoothing: Share of the target that is spread evenly over all N (Szegedy et al. 2016).
        product_type: Type of the factors of the three matrix products, float32 or bfloat16.
    """
    loss: Tensor = _CatalogueCrossEntropy.apply(states_TD, items_ND, bias_N, labels_T, smoothing, product_type)  # type: ignore[no-untyped-call]
    return loss


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Cross-entropy whose forward pass computes the gradients too, block by block."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        states_TD: Tensor,
        items_ND: Tensor,
        bias_N: Tensor,
        labels_T: Tensor,
        smoothing: float,
        product_type: torch.dtype,
    ) -> Tensor:
        """See `catalogue_cross_entropy`."""
        # Logits to base 2: torch's exp2 is as exact as its exp and three times as fast on some processors.
        states, items, bias2_N = (states_TD * _LOG2_E).to(product_type), items_ND.to(product_type), bias_N * _LOG2_E
        d_states, d_items, d_bias = (torch.zeros_like(tensor) for tensor in (states_TD, items_ND, bias_N))
        loss = states_TD.new_zeros(())

        for start in range(0, len(states), _BLOCK_POSITIONS):
            block = slice(start, start + _BLOCK_POSITIONS)
            logits2_bN = _logits(states[block], items, bias2_N)
            loss2_b, exponentials_bN, sums_b1 = _softmax_loss(logits2_bN, labels_T[block], smoothing)
            loss += loss2_b.sum() / _LOG2_E

            # The softmax itself is never formed: its sums divide the narrow factor or result of each product.
            d_bias += (exponentials_bN.T @ (1 / sums_b1)).squeeze(1)
            exponentials_bN = exponentials_bN.to(product_type)
            d_states[block] = (exponentials_bN @ items).float() / sums_b1
            _add_product(d_items, exponentials_bN.T, (states_TD[block] / sums_b1).to(product_type))

        _subtract_targets((d_states, d_items, d_bias), states_TD, items_ND, labels_T, smoothing)
        num_positions = max(len(states), 1)
        ctx.save_for_backward(*(gradient.div_(num_positions) for gradient in (d_states, d_items, d_bias)))
        return loss / num_positions

    @staticmethod
    def backward(ctx: BackwardCFunction, *d_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of states, items and bias."""
        return (*(gradient * d_loss[0] for gradient in ctx.saved_tensors), None, None, None)


def _logits(states_bD: Tensor, items_ND: Tensor, bias_N: Tensor) -> Tensor:
    """[block, items] in float32."""
    if states_bD.dtype == bias_N.dtype:
        return torch.addmm(bias_N, states_bD, items_ND.T)
    return (states_bD @ items_ND.T).float().add_(bias_N)


def _softmax_loss(logits2_bN: Tensor, labels_b: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss per position, and the softmax as exponentials (in the memory of the logits) and their sums [b, 1].

    Logits and loss are to base 2.
    """
    target_b1 = (1 - smoothing) * logits2_bN.gather(1, labels_b[:, None])
    if smoothing:
        target_b1 += smoothing * logits2_bN.mean(dim=1, keepdim=True)
    largest_b1 = logits2_bN.amax(dim=1, keepdim=True)
    exponentials_bN = logits2_bN.sub_(largest_b1).exp2_()
    sums_b1 = exponentials_bN.sum(dim=1, keepdim=True)
    loss2_b1 = sums_b1.log2() + largest_b1 - target_b1
    return loss2_b1.squeeze(1), exponentials_bN, sums_b1


def _subtract_targets(
    gradients: tuple[Tensor, Tensor, Tensor], states_TD: Tensor, items_ND: Tensor, labels_T: Tensor, smoothing: float
) -> None:
    """Subtracts the target from the softmax's gradients, for all positions at once."""
    d_states, d_items, d_bias = gradients
    d_states.sub_(items_ND[labels_T], alpha=1 - smoothing)
    d_items.index_add_(0, labels_T, states_TD, alpha=smoothing - 1)
    d_bias.index_add_(0, labels_T, torch.ones_like(labels_T, dtype=d_bias.dtype), alpha=smoothing - 1)
    if smoothing:
        d_states -= smoothing * items_ND.mean(dim=0)
        d_items -= smoothing / len(items_ND) * states_TD.sum(dim=0)
        d_bias -= smoothing / len(items_ND) * len(labels_T)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left right, in one pass where the types allow it."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
