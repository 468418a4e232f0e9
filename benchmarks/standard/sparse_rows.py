"""Sparse matrices by rows: sums of a few weighted rows for every history of a block, without scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class SparseRows:
    """A sparse matrix; entries that are given twice are added.

    Args:
        rows: [entries].
        columns: [entries].
        values: [entries].
        shape: Rows and columns.
    """

    def __init__(
        self,
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
        values: NDArray[np.floating],
        shape: tuple[int, int],
    ) -> None:
        self.shape = shape
        cells, cell_of = np.unique(rows.astype(np.int64) * shape[1] + columns, return_inverse=True)
        self.rows, self.columns = np.divmod(cells, shape[1])
        self.values = np.bincount(cell_of, weights=values, minlength=len(cells)).astype(np.float32)
        self._starts = np.searchsorted(self.rows, np.arange(shape[0] + 1))

    def with_values(self, values: NDArray[np.floating]) -> SparseRows:
        """The same entries with other values."""
        return SparseRows(self.rows, self.columns, values, self.shape)

    def transposed(self) -> SparseRows:
        """Columns as rows."""
        return SparseRows(self.columns, self.rows, self.values, self.shape[::-1])

    def largest(self, k: int) -> SparseRows:
        """The k largest entries of each row; of equal ones those further left."""
        order = np.lexsort((self.columns, -self.values, self.rows))
        kept = order[np.arange(len(order)) - self._starts[self.rows[order]] < k]
        return SparseRows(self.rows[kept], self.columns[kept], self.values[kept], self.shape)

    def sums(
        self, parts: Sequence[NDArray[np.integer]], weights: Sequence[NDArray[np.floating]] | None = None
    ) -> NDArray[np.float32]:
        """Weighted sums of rows: [parts, columns].

        Args:
            parts: The rows that each sum is over.
            weights: Of each of these rows; 1 without them.
        """
        owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        chosen = np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)
        starts, sizes = self._starts[chosen], np.diff(self._starts)[chosen]

        entries = np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
        values = self.values[entries]
        if weights is not None:
            values = values * np.repeat(np.concatenate([np.zeros(0), *weights]), sizes)

        cells = np.repeat(owners, sizes) * self.shape[1] + self.columns[entries]
        flat = np.bincount(cells, weights=values, minlength=len(parts) * self.shape[1])
        return flat.reshape(len(parts), -1).astype(np.float32)


def transitions(sequences: Sequence[NDArray[np.int32]], num_items: int) -> SparseRows:
    """How often each item follows each other one, directly: [items + 1, items + 1]."""
    before, after = (np.concatenate([part[cut] for part in sequences]) for cut in (slice(-1), slice(1, None)))
    return SparseRows(before, after, np.ones(len(before)), (num_items + 1, num_items + 1))
