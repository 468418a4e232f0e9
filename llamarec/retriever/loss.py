"""Cross-entropy over the whole catalogue without ever holding [positions, items].

One step of Beauty has about 800 positions and 12,086 items. Written plainly, every pass over the logits (bias, maximum,
exponential, sum, gradient) goes through memory. Here a block of positions is scored, and its gradients are taken at
once, while it lies in the processor's cache. The products are in bfloat16 where the processor multiplies it natively;
sums, exponentials and the loss itself are always float32. Measured in docs/decisions/0002-retriever.md.

    T positions, D width, N items + 1, b positions of a block
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

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
        product_type: Of the factors of the three matrix products; float32 or bfloat16.
    """
    loss: Tensor = _CatalogueCrossEntropy.apply(states_TD, items_ND, bias_N, labels_T, smoothing, product_type)  # type: ignore[no-untyped-call]
    return loss


class _CatalogueCrossEntropy(torch.autograd.Function):
    """The forward pass makes the gradients too, block by block; the backward pass hands them out."""

    @staticmethod
    def forward(
        ctx: Any,
        states_TD: Tensor,
        items_ND: Tensor,
        bias_N: Tensor,
        labels_T: Tensor,
        smoothing: float,
        product_type: torch.dtype,
    ) -> Tensor:
        """See `catalogue_cross_entropy`."""
        states, items = states_TD.to(product_type), items_ND.to(product_type)
        d_states, d_items, d_bias = (torch.zeros_like(tensor) for tensor in (states_TD, items_ND, bias_N))
        loss = states_TD.new_zeros(())
        for start in range(0, len(states), _BLOCK_POSITIONS):
            block = slice(start, start + _BLOCK_POSITIONS)
            logits_bN = (states[block] @ items.T).float().add_(bias_N)
            loss_b, d_logits_bN = _softmax_loss(logits_bN, labels_T[block], smoothing)
            loss += loss_b.sum()
            d_bias += d_logits_bN.sum(dim=0)
            d_logits_bN = d_logits_bN.to(product_type)
            d_states[block] = d_logits_bN @ items
            d_items += d_logits_bN.T @ states[block]
        num_positions = max(len(states), 1)
        ctx.save_for_backward(*(gradient.div_(num_positions) for gradient in (d_states, d_items, d_bias)))
        return loss / num_positions

    @staticmethod
    def backward(ctx: Any, *d_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of states, items and bias."""
        return (*(gradient * d_loss[0] for gradient in ctx.saved_tensors), None, None, None)


def _softmax_loss(logits_bN: Tensor, labels_b: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Loss per position, and its gradient by the logits: softmax minus target, in the logits' own memory."""
    labels_b1 = labels_b[:, None]
    target_logits_b1 = (1 - smoothing) * logits_bN.gather(1, labels_b1)
    if smoothing:
        target_logits_b1 += smoothing * logits_bN.mean(dim=1, keepdim=True)
    largest_b1 = logits_bN.amax(dim=1, keepdim=True)
    d_logits_bN = logits_bN.sub_(largest_b1).exp_()
    sums_b1 = d_logits_bN.sum(dim=1, keepdim=True)
    loss_b1 = sums_b1.log() + largest_b1 - target_logits_b1
    d_logits_bN.div_(sums_b1)
    if smoothing:
        d_logits_bN -= smoothing / d_logits_bN.shape[1]
    d_logits_bN.scatter_add_(1, labels_b1, torch.full_like(target_logits_b1, smoothing - 1))
    return loss_b1.squeeze(1), d_logits_bN
