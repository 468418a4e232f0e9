"""Causal attention of one prompt, in blocks of queries, with the heads that share a key side by side.

A block of queries meets the keys up to its own last one: above the diagonal almost nothing is computed. A block holds
all heads of a group, position by position, so that its products are matrices of one piece:

    scores [block * H, keys] = queries [block * H, K] @ keys [keys, K].T
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from llamarec.ranker.rows.buffers import Buffers

# Rows of a block's products. Scores of a prompt of 1,000 tokens then fit a core's second cache (0.8 MB).
_ROWS: Final = 192


class Blocks:
    """Where the blocks of a prompt's attention lie.

    Args:
        queries: The last tokens of the prompt have a query.
        keys: All of them have a key.
        heads: Query heads of a group.
    """

    def __init__(self, queries: int, keys: int, heads: int) -> None:
        self.heads = heads
        size, before = max(_ROWS // heads, 1), keys - queries
        starts = range(0, queries, size)
        self._ranges = [(start, min(start + size, queries), before + min(start + size, queries)) for start in starts]

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """First query, end of queries, end of keys."""
        return iter(self._ranges)

    @property
    def scores_per_group(self) -> int:
        """Scores of all blocks, the little above the diagonal included."""
        return sum((end - start) * self.heads * keys for start, end, keys in self._ranges)

    @property
    def most(self) -> int:
        """Scores of the largest block."""
        return max(((end - start) * self.heads * keys for start, end, keys in self._ranges), default=0)


def forward(
    blocks: Blocks, q_GQHK: Tensor, k_GTK: Tensor, v_GTK: Tensor, out_GQHK: Tensor, work: Buffers, kept: Tensor | None
) -> None:
    """softmax(q k^T) v for each query over the keys up to its own.

    Args:
        blocks: Of this prompt.
        q_GQHK: Queries, divided by the square root of K.
        k_GTK: Keys.
        v_GTK: Values.
        out_GQHK: The result.
        work: For what comes and goes.
        kept: [G, scores_per_group] takes the probabilities for the backward pass; None: computed again there.
    """
    for group in range(q_GQHK.shape[0]):
        at = 0
        for start, end, keys in blocks:
            q = q_GQHK[group, start:end].flatten(0, 1)
            shape = (q.shape[0], keys)
            room = work.take("probabilities", *shape) if kept is None else kept[group, at:].narrow(0, 0, q.shape[0] * keys)
            at += q.shape[0] * keys
            probabilities = _probabilities(blocks, q, k_GTK[group, :keys], work, room.view(shape))
            torch.mm(probabilities, v_GTK[group, :keys], out=out_GQHK[group, start:end].flatten(0, 1))


def backward(
    blocks: Blocks,
    grad_GQHK: Tensor,
    q_GQHK: Tensor,
    k_GTK: Tensor,
    v_GTK: Tensor,
    into: tuple[Tensor, Tensor, Tensor],
    work: Buffers,
    kept: Tensor | None,
) -> None:
    """Gradients of q (written), k and v (added) into `into`, shaped as those. Other arguments as of `forward`."""
    dq_GQHK, dk_GTK, dv_GTK = into
    for group in range(q_GQHK.shape[0]):
        at = 0
        for start, end, keys in blocks:
            q, grad = q_GQHK[group, start:end].flatten(0, 1), grad_GQHK[group, start:end].flatten(0, 1)
            k, v = k_GTK[group, :keys], v_GTK[group, :keys]
            shape = (q.shape[0], keys)
            if kept is None:
                probabilities = _probabilities(blocks, q, k, work, work.take("probabilities", *shape))
            else:
                probabilities = kept[group, at : at + q.shape[0] * keys].view(shape)
            at += q.shape[0] * keys
            dv_GTK[group, :keys].addmm_(probabilities.t(), grad)
            slopes = torch.mm(grad, v.t(), out=work.take("slopes", *shape))
            # P * (slope - sum of P * slope), in one pass.
            torch.ops.aten._softmax_backward_data.out(
                slopes, probabilities, -1, torch.float32, grad_input=work.take("scores", *shape)
            )
            scores = work.take("scores", *shape)
            torch.mm(scores, k, out=dq_GQHK[group, start:end].flatten(0, 1))
            dk_GTK[group, :keys].addmm_(scores.t(), q)


def _probabilities(blocks: Blocks, q: Tensor, k: Tensor, work: Buffers, out: Tensor) -> Tensor:
    scores = torch.mm(q, k.t(), out=work.take("scores", *out.shape))
    size = q.shape[0] // blocks.heads
    # The block's own keys: of those a query sees the ones up to itself.
    scores.view(size, blocks.heads, -1)[:, :, -size:].add_(_later(size))
    return torch.ops.aten._softmax.out(scores, -1, False, out=out)  # type: ignore[no-any-return]


_LATER: Final[dict[int, Tensor]] = {}


def _later(size: int) -> Tensor:
    """[size, 1, size] minus infinity where the key comes after the query."""
    if size not in _LATER:
        _LATER[size] = torch.full((size, size), float("-inf")).triu_(1)[:, None, :]
    return _LATER[size]
