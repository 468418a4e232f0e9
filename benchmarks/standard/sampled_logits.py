"""Products of states with a few hundred sampled items each, in half the time of gathered vectors.

Gathering [positions, samples, width] floats and adding their gradients back one by one is most of a step on a CPU. Here
the forward pass gathers a part at a time, which stays in the cache, and both gradients are products with one sparse
matrix: the gradients of the logits, [positions, items].
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

_PART: Final = 64


class _SampledLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, states_TD: Tensor, items_ND: Tensor, samples_TC: Tensor) -> Tensor:
        """See `sampled_logits`."""
        ctx.save_for_backward(states_TD, items_ND, samples_TC)
        parts = zip(torch.split(states_TD, _PART), torch.split(samples_TC, _PART), strict=True)
        return torch.cat(
            [torch.bmm(F.embedding(samples, items_ND), states.unsqueeze(2)).squeeze(2) for states, samples in parts]
        )

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of states and items."""
        states_TD, items_ND, samples_TC = ctx.saved_tensors  # type: ignore[attr-defined]
        num_positions, num_samples = samples_TC.shape
        rows = torch.arange(num_positions).repeat_interleave(num_samples)
        cells = torch.stack([rows, samples_TC.flatten()])

        shape = (num_positions, len(items_ND))
        logits_TN = torch.sparse_coo_tensor(cells, gradients[0].flatten(), shape, check_invariants=False)
        return torch.sparse.mm(logits_TN, items_ND), torch.sparse.mm(logits_TN.t(), states_TD), None


def sampled_logits(states_TD: Tensor, items_ND: Tensor, samples_TC: Tensor) -> Tensor:
    """Products of each state with its samples: [positions, samples].

    Args:
        states_TD: [positions, width].
        items_ND: [items, width].
        samples_TC: [positions, samples] rows of `items_ND`; one may occur twice.
    """
    logits_TC: Tensor = _SampledLogits.apply(states_TD, items_ND, samples_TC)  # type: ignore[no-untyped-call]
    return logits_TC
