"""The linear recurrence h_t = lambda * h_(t-1) + x_t as a blocked parallel scan over packed sequences.

Because lambda does not depend on t, a scan needs no sequential pass over a sequence. Hillis and Steele (1986) take
log2(length) sweeps over all tokens; here sequences are cut into blocks of 16 positions, and the sweeps are over the
blocks' ends only (Blelloch 1990, section 1.4):

1. inside all blocks at once, 15 steps;
2. over the blocks' ends, log2(length / 16) sweeps with lambda^16;
3. each end is carried into the block after it.

That is about two and a half passes over the tokens instead of eight. The adjoint of the recurrence is the same
recurrence from the last token to the first with the conjugate of lambda, so the backward pass is one more scan.

    T tokens of the batch, H states, O offsets within a block
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx

_BLOCK: Final = 16


def scan(inputs_TH: Tensor, decay_H: Tensor, positions_T: Tensor) -> Tensor:
    """States of h_t = decay * h_(t-1) + input_t, each sequence starting from zero.

    Args:
        inputs_TH: [tokens, states] complex, sequences one after the other.
        decay_H: [states] complex.
        positions_T: [tokens] position within the own sequence, from 0.

    Returns:
        [tokens, states] complex.
    """
    states_TH: Tensor = _Scan.apply(inputs_TH, decay_H, positions_T)  # type: ignore[no-untyped-call]
    return states_TH


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, inputs_TH: Tensor, decay_H: Tensor, positions_T: Tensor) -> Tensor:
        """States of all tokens."""
        states_TH = _scan_in_place(inputs_TH.clone(), decay_H, positions_T)
        ctx.save_for_backward(states_TH, decay_H, positions_T)
        return states_TH

    @staticmethod
    def backward(ctx: BackwardCFunction, *d_states: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of inputs and decay."""
        states_TH, decay_H, positions_T = ctx.saved_tensors  # type: ignore[misc]  # typed as one tensor
        distances_T = _distances_from_end(positions_T)
        d_inputs_TH = _scan_in_place(d_states[0].flip(0), decay_H.conj(), distances_T.flip(0)).flip(0)
        later = torch.nonzero(positions_T >= 1).squeeze(1)
        d_decay_H = (states_TH[later - 1].conj() * d_inputs_TH[later]).sum(dim=0)
        return d_inputs_TH, d_decay_H, None


def _scan_in_place(states_TH: Tensor, decay_H: Tensor, positions_T: Tensor) -> Tensor:
    longest = int(positions_T.max()) if len(positions_T) else 0
    offsets_T = positions_T % _BLOCK
    powers_OH = _powers(decay_H)
    rows_by_offset = torch.split(torch.argsort(offsets_T, stable=True), _counts(offsets_T))
    for rows in rows_by_offset[1:]:
        states_TH.index_add_(0, rows, states_TH[rows - 1].mul_(decay_H))

    ends = rows_by_offset[-1]
    blocks, block_decay_H = 1, powers_OH[-1]
    while blocks * _BLOCK <= longest:
        later = ends[positions_T[ends] >= blocks * _BLOCK]
        states_TH.index_add_(0, later, states_TH[later - blocks * _BLOCK].mul_(block_decay_H))
        blocks, block_decay_H = 2 * blocks, block_decay_H * block_decay_H

    for offset, rows in enumerate(rows_by_offset[:-1]):
        later = rows[positions_T[rows] >= _BLOCK]
        states_TH.index_add_(0, later, states_TH[later - offset - 1].mul_(powers_OH[offset]))
    return states_TH


def _powers(decay_H: Tensor) -> Tensor:
    """decay^1 to decay^_BLOCK: [_BLOCK, states]."""
    return torch.cumprod(decay_H.expand(_BLOCK, -1), dim=0)


def _counts(offsets_T: Tensor) -> list[int]:
    counts: list[int] = torch.bincount(offsets_T, minlength=_BLOCK).tolist()
    return counts


def _distances_from_end(positions_T: Tensor) -> Tensor:
    """Distance of each token from the last one of its sequence."""
    starts = torch.nonzero(positions_T == 0).squeeze(1)
    lengths = torch.diff(starts, append=starts.new_tensor([len(positions_T)]))
    return torch.repeat_interleave(lengths, lengths) - 1 - positions_T
