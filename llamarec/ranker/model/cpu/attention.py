"""Causal attention of one prompt, in blocks of queries, with the heads that share a key side by side.

A block of queries is multiplied with the keys up to its own last one, so almost nothing is computed above the diagonal.
A block holds all heads of a group, position by position, so a group is one matrix and all groups are one batch:

    scores [G, block * H, keys] = queries [G, block * H, K] @ keys [G, keys, K].T
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from llamarec.planning.per_prompt_memory import QUERIES_PER_BLOCK
from llamarec.ranker.model.cpu.buffers import Buffers


@dataclass(frozen=True)
class Block:
    """Some queries and the keys that they see.

    Attributes:
        rows: Number of rows: positions times the heads of a group.
        keys: Number of keys: all up to the last of these queries.
        own: Heads and queries, for the scores of the block's queries with their own keys.
        scores: Offset of the block's scores among those of a group.
    """

    rows: int
    keys: int
    own: tuple[int, int]
    scores: int

    def shape(self, flat: Tensor, groups: int, first: int = 0) -> Tensor:
        """[G, rows, keys] view of a flat tensor, from number `first` on."""
        first += int(flat.storage_offset())
        return flat.as_strided((groups, self.rows, self.keys), (self.rows * self.keys, self.keys, 1), first)

    def above_diagonal(self, flat: Tensor, groups: int) -> Tensor:
        """[G, queries, heads, queries] view of the scores with the block's own keys."""
        heads, queries = self.own
        strides = (self.rows * self.keys, heads * self.keys, self.keys, 1)
        first = int(flat.storage_offset()) + self.keys - queries
        return flat.as_strided((groups, queries, heads, queries), strides, first)


class Blocks:
    """The blocks of a prompt's attention.

    Args:
        queries: Tokens with a query, the last ones of the prompt.
        keys: Tokens with a key, that is all.
        heads: Query heads of a group.
    """

    def __init__(self, queries: int, keys: int, heads: int) -> None:
        self._blocks: list[Block] = []
        self.scores_per_group = 0
        for start in range(0, queries, QUERIES_PER_BLOCK):
            size = min(QUERIES_PER_BLOCK, queries - start)
            seen = keys - queries + start + size
            self._blocks.append(Block(size * heads, seen, (heads, size), self.scores_per_group))
            self.scores_per_group += size * heads * seen
        self.most_scores = max((block.rows * block.keys for block in self._blocks), default=0)

    def with_rows(self, *of_queries: Tensor) -> Iterator[Any]:
        """Tuples of each block and its rows [G, rows, K] of each tensor [G, Q, H, K]."""
        heads = of_queries[0].shape[2]
        return zip(
            self._blocks, *(one.flatten(1, 2).split(QUERIES_PER_BLOCK * heads, 1) for one in of_queries), strict=True
        )


class Segment:
    """A text of its own among the tokens of a pass, whose queries see its own keys only.

    Attributes:
        blocks: The blocks of its attention.

    Args:
        queries: First of its queries, and the number of them.
        keys: First of its keys, and the number of them.
        scores: Number of scores of a group in the segments before it.
        heads: Query heads of a group.
    """

    def __init__(self, queries: tuple[int, int], keys: tuple[int, int], scores: int, heads: int) -> None:
        self._queries, self._keys, self._scores = queries, keys, scores
        self.blocks = Blocks(queries[1], keys[1], heads)

    def of_queries(self, x_GQHK: Tensor) -> Tensor:
        """Its part of a tensor by query."""
        return x_GQHK.narrow(1, *self._queries)

    def of_keys(self, x_GTK: Tensor) -> Tensor:
        """Its part of a tensor by key."""
        return x_GTK.narrow(1, *self._keys)

    def of_scores(self, flat: Tensor | None, groups: int) -> Tensor | None:
        """Its part of the flat probabilities."""
        return None if flat is None else flat.narrow(0, groups * self._scores, groups * self.blocks.scores_per_group)


def segments_of(queries: int, head: int, lengths: Sequence[int], heads: int) -> list[Segment]:
    """The segments of a pass.

    Args:
        queries: Tokens with a query, the last ones; with several segments, all tokens.
        head: Tokens before those of the pass; with several segments, none.
        lengths: Tokens of each segment.
        heads: Query heads of a group.
    """
    if len(lengths) == 1:
        return [Segment((0, queries), (0, head + lengths[0]), 0, heads)]

    found: list[Segment] = []
    start = scores = 0
    for length in lengths:
        found.append(Segment((start, length), (start, length), scores, heads))
        start, scores = start + length, scores + found[-1].blocks.scores_per_group
    return found


def forward(
    blocks: Blocks, q_GQHK: Tensor, k_GTK: Tensor, v_GTK: Tensor, out_GQHK: Tensor, work: Buffers, kept: Tensor | None
) -> None:
    """softmax(q k^T) v for each query over the keys up to its own.

    Args:
        blocks: Blocks of this prompt.
        q_GQHK: Queries, multiplied with the scale of the scores.
        k_GTK: Keys.
        v_GTK: Values.
        out_GQHK: Receives the result.
        work: Memory for temporary tensors.
        kept: [G * scores_per_group] receives the probabilities for the backward pass; None recomputes them there.
    """
    room = _Room(blocks, len(q_GQHK), work, kept)
    kT = k_GTK.transpose(1, 2)
    for block, q_GRK, out_GRK in blocks.with_rows(q_GQHK, out_GQHK):
        p_GRT = room.probabilities(block)
        _probabilities(block, q_GRK, kT.narrow(2, 0, block.keys), room, p_GRT)
        torch.bmm(p_GRT, v_GTK.narrow(1, 0, block.keys), out=out_GRK)


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
    """Writes the gradient of q, and adds those of k and v, into `into`. Other arguments are those of `forward`."""
    dq_GQHK, dk_GTK, dv_GTK = into
    room = _Room(blocks, len(q_GQHK), work, kept)
    kT, vT = k_GTK.transpose(1, 2), v_GTK.transpose(1, 2)
    for block, q_GRK, grad_GRK, dq_GRK in blocks.with_rows(q_GQHK, grad_GQHK, dq_GQHK):
        p_GRT = room.probabilities(block)
        if kept is None:
            _probabilities(block, q_GRK, kT.narrow(2, 0, block.keys), room, p_GRT)
        dv_GTK.narrow(1, 0, block.keys).baddbmm_(p_GRT.transpose(1, 2), grad_GRK)
        dp_GRT = torch.bmm(grad_GRK, vT.narrow(2, 0, block.keys), out=room.slopes(block))
        ds_GRT = room.scores(block)
        # P * (slope - sum of P * slope), in one pass.
        torch.ops.aten._softmax_backward_data.out(dp_GRT, p_GRT, -1, torch.float32, grad_input=ds_GRT)
        torch.bmm(ds_GRT, k_GTK.narrow(1, 0, block.keys), out=dq_GRK)
        dk_GTK.narrow(1, 0, block.keys).baddbmm_(ds_GRT.transpose(1, 2), q_GRK)


class _Room:
    """Memory for the scores of blocks: [G, rows, keys] each."""

    def __init__(self, blocks: Blocks, groups: int, work: Buffers, kept: Tensor | None) -> None:
        self._groups, self._kept = groups, kept
        self._most, self._work = groups * blocks.most_scores, work
        self._flat_scores = work.take("scores", self._most)
        self._flat_probabilities = work.take("probabilities", self._most) if kept is None else kept

    def scores(self, block: Block) -> Tensor:
        """Scores of a block; the next block reuses their memory."""
        return block.shape(self._flat_scores, self._groups)

    def above_diagonal(self, block: Block) -> Tensor:
        """The part of `scores` that holds the block's own keys."""
        return block.above_diagonal(self._flat_scores, self._groups)

    def slopes(self, block: Block) -> Tensor:
        """Scores of a block; the next block reuses their memory."""
        return block.shape(self._work.take("slopes", self._most), self._groups)

    def probabilities(self, block: Block) -> Tensor:
        """Probabilities of a block; each block has its own memory if they are kept."""
        first = 0 if self._kept is None else self._groups * block.scores
        return block.shape(self._flat_probabilities, self._groups, first)


def _probabilities(block: Block, q_GRK: Tensor, kT_GKT: Tensor, room: _Room, out_GRT: Tensor) -> None:
    scores_GRT = torch.bmm(q_GRK, kT_GKT, out=room.scores(block))
    # Of the block's own keys, a query sees those up to itself.
    room.above_diagonal(block).add_(_later(block.own[1]))
    torch.ops.aten._softmax.out(scores_GRT, -1, False, out=out_GRT)


_LATER: Final[dict[int, Tensor]] = {}


def _later(size: int) -> Tensor:
    """[1, size, 1, size] minus infinity where the key comes after the query."""
    if size not in _LATER:
        _LATER[size] = torch.full((size, size), float("-inf")).triu_(1)[None, :, None, :]
    return _LATER[size]
