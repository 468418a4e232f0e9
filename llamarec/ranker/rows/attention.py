"""Causal attention of one prompt, in blocks of queries, with the heads that share a key side by side.

A block of queries meets the keys up to its own last one: above the diagonal almost nothing is computed. A block holds
all heads of a group position by position, so that a group is one matrix and all groups are one batch:

    scores [G, block * H, keys] = queries [G, block * H, K] @ keys [G, keys, K].T
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from llamarec.ranker.rows.buffers import Buffers

# Queries of a block. Fewer: more calls; more: more scores above the diagonal, and fewer that stay in a core's cache.
_QUERIES: Final = 48


@dataclass(frozen=True)
class Block:
    """Some queries and the keys that they see.

    Attributes:
        rows: Of the queries: position by position, all heads of a group.
        queries: Their number.
        keys: All up to the last of these queries.
        scores: Where the block's scores begin among those of a group.
    """

    rows: slice
    queries: int
    keys: int
    scores: int


class Blocks:
    """The blocks of a prompt's attention.

    Args:
        queries: The last tokens of the prompt have a query.
        keys: All of them have a key.
        heads: Query heads of a group.
    """

    def __init__(self, queries: int, keys: int, heads: int) -> None:
        self.heads = heads
        self._blocks: list[Block] = []
        self.scores_per_group = 0
        for start in range(0, queries, _QUERIES):
            end = min(start + _QUERIES, queries)
            block = Block(slice(start * heads, end * heads), end - start, keys - queries + end, self.scores_per_group)
            self._blocks.append(block)
            self.scores_per_group += (end - start) * heads * block.keys

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)


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
        kept: [G * scores_per_group] takes the probabilities for the backward pass; None: computed again there.
    """
    q, out = q_GQHK.flatten(1, 2), out_GQHK.flatten(1, 2)
    for block in blocks:
        q_GRK = q[:, block.rows]
        p_GRT = _room(block, q_GRK, work, kept)
        _probabilities(blocks, block, q_GRK, k_GTK[:, : block.keys], work, p_GRT)
        torch.bmm(p_GRT, v_GTK[:, : block.keys], out=out[:, block.rows])


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
    q, grad, dq = q_GQHK.flatten(1, 2), grad_GQHK.flatten(1, 2), dq_GQHK.flatten(1, 2)
    for block in blocks:
        q_GRK, grad_GRK = q[:, block.rows], grad[:, block.rows]
        k, v = k_GTK[:, : block.keys], v_GTK[:, : block.keys]
        p_GRT = _room(block, q_GRK, work, kept)
        if kept is None:
            _probabilities(blocks, block, q_GRK, k, work, p_GRT)
        dv_GTK[:, : block.keys].baddbmm_(p_GRT.transpose(1, 2), grad_GRK)
        dp_GRT = torch.bmm(grad_GRK, v.transpose(1, 2), out=work.take("slopes", *p_GRT.shape))
        scores_GRT = work.take("scores", *p_GRT.shape)
        # P * (slope - sum of P * slope), in one pass.
        torch.ops.aten._softmax_backward_data.out(dp_GRT, p_GRT, -1, torch.float32, grad_input=scores_GRT)
        torch.bmm(scores_GRT, k, out=dq[:, block.rows])
        dk_GTK[:, : block.keys].baddbmm_(scores_GRT.transpose(1, 2), q_GRK)


def _room(block: Block, q_GRK: Tensor, work: Buffers, kept: Tensor | None) -> Tensor:
    """[G, rows, keys] for the probabilities of a block."""
    groups, rows = q_GRK.shape[:2]
    if kept is None:
        return work.take("probabilities", groups, rows, block.keys)
    size = groups * rows * block.keys
    return kept[groups * block.scores : groups * block.scores + size].view(groups, rows, block.keys)


def _probabilities(blocks: Blocks, block: Block, q_GRK: Tensor, k_GTK: Tensor, work: Buffers, out_GRT: Tensor) -> None:
    scores_GRT = torch.bmm(q_GRK, k_GTK.transpose(1, 2), out=work.take("scores", *out_GRT.shape))
    # The block's own keys: of those a query sees the ones up to itself.
    own = scores_GRT.view(len(out_GRT), block.queries, blocks.heads, block.keys)[..., -block.queries :]
    own.add_(_later(block.queries))
    torch.ops.aten._softmax.out(scores_GRT, -1, False, out=out_GRT)


_LATER: Final[dict[int, Tensor]] = {}


def _later(size: int) -> Tensor:
    """[1, size, 1, size] minus infinity where the key comes after the query."""
    if size not in _LATER:
        _LATER[size] = torch.full((size, size), float("-inf")).triu_(1)[None, :, None, :]
    return _LATER[size]
