"""Item vectors as weighted sums of their words' vectors, which items with the same words share.

An item that few have taken has learned little of its own; its words have been taken often. Features of items are added
to their vectors as in SASRec with features (Kang and McAuley 2018, section III) and LightFM (Kula 2015,
arXiv 1507.08439).

    I items + 1, W words, D width
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx
from torch.nn import functional as F


class WordVectors(nn.Module):
    """A vector for each word, and for each item the sum of its words' vectors.

    The vectors start at zero, so that an untrained model is the one without words.

    Args:
        weights_IW: Sparse weights of the words of each item.
        width: Width of the vectors.

    Attributes:
        vectors: [words, width].
    """

    def __init__(self, weights_IW: Tensor, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(weights_IW.shape[1], width))
        self._items, self._words = _bags(weights_IW.coalesce()), _bags(weights_IW.T.coalesce())

    def forward(self) -> Tensor:
        """[items + 1, width]."""
        sums_ID: Tensor = _SumsOfWords.apply(self.vectors, self._items, self._words)  # type: ignore[no-untyped-call]
        return sums_ID

    def of(self, items_C: Tensor) -> Tensor:
        """[C, width] of some items alone."""
        entries_E, rows_E = self._items.entries_of(items_C)
        terms_ED = F.embedding(self._items.columns[entries_E], self.vectors) * self._items.weights[entries_E, None]
        return terms_ED.new_zeros(len(items_C), self.vectors.shape[1]).index_add(0, rows_E, terms_ED)


class _Bags(NamedTuple):
    """A sparse matrix by rows, as torch's embedding_bag reads it.

    columns: [entries]. starts: [rows] first entry of each row. weights: [entries].
    """

    columns: Tensor
    starts: Tensor
    weights: Tensor

    def sums(self, vectors: Tensor) -> Tensor:
        """The matrix times vectors [columns, width]; the same bits for any number of threads."""
        return F.embedding_bag(
            self.columns, vectors, self.starts, mode="sum", per_sample_weights=self.weights.to(vectors.dtype)
        )

    def entries_of(self, rows_C: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the entries of some rows, and for each entry which of these rows it is of."""
        ends = torch.cat([self.starts[1:], self.starts.new_tensor([len(self.columns)])])
        lengths_C = (ends - self.starts)[rows_C]
        of_row_E = torch.repeat_interleave(torch.arange(len(rows_C)), lengths_C)
        first_C = self.starts[rows_C] - (lengths_C.cumsum(0) - lengths_C)
        return first_C[of_row_E] + torch.arange(len(of_row_E)), of_row_E


def _bags(matrix: Tensor) -> _Bags:
    rows, columns = matrix.indices()
    starts = torch.searchsorted(rows.contiguous(), torch.arange(matrix.shape[0]))
    return _Bags(columns.contiguous(), starts, matrix.values())


class _SumsOfWords(torch.autograd.Function):
    """Sums whose gradient is made by the transposed matrix: torch's own backward pass takes forty times as long."""

    @staticmethod
    def forward(ctx: FunctionCtx, vectors_WD: Tensor, items: _Bags, words: _Bags) -> Tensor:
        """[items + 1, width]."""
        ctx.words = words  # type: ignore[attr-defined]
        return items.sums(vectors_WD)

    @staticmethod
    def backward(ctx: BackwardCFunction, *d_sums: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the words' vectors."""
        return ctx.words.sums(d_sums[0].contiguous()), None, None  # type: ignore[attr-defined]
