"""Cross-entropy over sampled items, for catalogues that are too large to score at every position.

The negatives of a step are drawn once, half by popularity and half evenly, and shared by all positions. Each logit is
lowered by the logarithm of how often its item is expected among them, so that the sum over the sample estimates the sum
over the catalogue (Bengio and Senecal 2008; logQ correction, Yi et al. 2019).

    T positions, S drawn items, C items of a step, D width, b positions of a block
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx
from torch.nn import functional as F

# The purpose of a random draw is part of its key.
_NEGATIVES_STREAM: Final = 3
_BLOCK_POSITIONS: Final = 64


class Drawn(NamedTuple):
    """Negatives of a step.

    items_S: Item ids; the same one may be drawn twice.
    log_expected_S: Logarithm of the number of times that each is expected among them.
    """

    items_S: Tensor
    log_expected_S: Tensor


class Negatives:
    """Draws negatives; equal keys give equal ones.

    Args:
        windows: The training sequences.
        num_items: Items of the catalogue, padding not counted.
        num_drawn: S.
    """

    def __init__(self, windows: Sequence[NDArray[np.int32]], num_items: int, num_drawn: int) -> None:
        counts = np.bincount(np.concatenate(windows), minlength=num_items + 1)[1:] if windows else np.ones(num_items)
        self._frequencies = 0.5 * counts / max(counts.sum(), 1) + 0.5 / num_items
        self._up_to = np.cumsum(self._frequencies)
        self._num_drawn = num_drawn
        self.restart(0)

    def restart(self, *keys: int) -> None:
        """Starts the sequence of draws that belongs to these keys."""
        self._generator = np.random.Generator(np.random.SFC64(np.random.SeedSequence([*keys, _NEGATIVES_STREAM])))

    def draw(self) -> Drawn:
        """The negatives of a step."""
        points = self._generator.random(self._num_drawn) * self._up_to[-1]
        rows = np.minimum(np.searchsorted(self._up_to, points, side="right"), len(self._up_to) - 1)
        log_expected = np.log(self._num_drawn * self._frequencies[rows]).astype(np.float32)
        return Drawn(torch.from_numpy(rows + 1), torch.from_numpy(log_expected))


class StepItems(NamedTuple):
    """The items that a step computes with.

    items_C: Their ids, ascending.
    inputs_T, labels_T, drawn_S: Their rows in `items_C`.
    log_expected_S: See `Drawn`.
    """

    items_C: Tensor
    inputs_T: Tensor
    labels_T: Tensor
    drawn_S: Tensor
    log_expected_S: Tensor


def step_items(inputs_T: Tensor, labels_T: Tensor, drawn: Drawn) -> StepItems:
    """The items of a step, each once.

    Args:
        inputs_T: Item ids that the model reads.
        labels_T: Item ids that follow.
        drawn: Negatives.
    """
    items_C, rows = torch.unique(torch.cat([inputs_T, labels_T, drawn.items_S]), return_inverse=True)
    of_inputs_T, of_labels_T, of_drawn_S = rows.split([len(inputs_T), len(labels_T), len(drawn.items_S)])
    return StepItems(items_C, of_inputs_T, of_labels_T, of_drawn_S, drawn.log_expected_S)


def sampled_cross_entropy(
    states_TD: Tensor, vectors_CD: Tensor, bias_C: Tensor, items: StepItems, *, product_type: torch.dtype
) -> Tensor:
    """Mean cross-entropy of each label among itself and the negatives; a scalar to call backward() on.

    Args:
        states_TD: [positions, width].
        vectors_CD: Vectors of `items.items_C`.
        bias_C: Likewise, added to the logits.
        items: Of the step.
        product_type: Type of the factors of the three matrix products, float32 or bfloat16.
    """
    labels_T, drawn_S = items.labels_T, items.drawn_S
    of_label_T = (states_TD * F.embedding(labels_T, vectors_CD)).sum(dim=1) + bias_C[labels_T]
    loss: Tensor = _SampledCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states_TD,
        F.embedding(drawn_S, vectors_CD),
        bias_C[drawn_S] - items.log_expected_S,
        of_label_T,
        drawn_S,
        labels_T,
        product_type,
    )
    return loss


class _SampledCrossEntropy(torch.autograd.Function):
    """Cross-entropy whose forward pass computes the gradients too, block by block, as that of the whole catalogue.

    Without it, every pass over [positions, drawn items] would go through memory (llamarec/retriever/loss.py).
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        states_TD: Tensor,
        drawn_SD: Tensor,
        bias_S: Tensor,
        of_label_T: Tensor,
        drawn_S: Tensor,
        labels_T: Tensor,
        product_type: torch.dtype,
    ) -> Tensor:
        """See `sampled_cross_entropy`."""
        states, drawn = states_TD.to(product_type), drawn_SD.to(product_type)
        d_states, d_drawn, d_bias, d_of_label = (
            torch.zeros_like(tensor) for tensor in (states_TD, drawn_SD, bias_S, of_label_T)
        )
        loss = states_TD.new_zeros(())

        for start in range(0, len(states), _BLOCK_POSITIONS):
            block = slice(start, start + _BLOCK_POSITIONS)
            logits_bS = _logits(states[block], drawn, bias_S)
            # A label that was drawn too would count twice.
            logits_bS.masked_fill_(drawn_S == labels_T[block, None], -torch.inf)
            of_label_b1 = of_label_T[block, None]
            largest_b1 = torch.maximum(logits_bS.amax(dim=1, keepdim=True), of_label_b1)

            exponentials_bS = logits_bS.sub_(largest_b1).exp_()
            own_b1 = (of_label_b1 - largest_b1).exp()
            sums_b1 = exponentials_bS.sum(dim=1, keepdim=True) + own_b1
            loss += (sums_b1.log() + largest_b1 - of_label_b1).sum()

            d_of_label[block] = (own_b1 / sums_b1 - 1).squeeze(1)
            d_bias += (exponentials_bS.T @ (1 / sums_b1)).squeeze(1)
            exponentials_bS = exponentials_bS.to(product_type)
            d_states[block] = (exponentials_bS @ drawn).float() / sums_b1
            d_drawn += (exponentials_bS.T @ (states_TD[block] / sums_b1).to(product_type)).float()

        num_positions = max(len(states), 1)
        gradients = (d_states, d_drawn, d_bias, d_of_label)
        ctx.save_for_backward(*(gradient.div_(num_positions) for gradient in gradients))
        return loss / num_positions

    @staticmethod
    def backward(ctx: BackwardCFunction, *d_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of states, drawn vectors, their biases, and the labels' logits."""
        return (*(gradient * d_loss[0] for gradient in ctx.saved_tensors), None, None, None)


def _logits(states_bD: Tensor, drawn_SD: Tensor, bias_S: Tensor) -> Tensor:
    """[block, S] in float32."""
    if states_bD.dtype == bias_S.dtype:
        return torch.addmm(bias_S, states_bD, drawn_SD.T)
    return (states_bD @ drawn_SD.T).float().add_(bias_S)
