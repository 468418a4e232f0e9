"""How long prompts are: a sample of them stands for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# What `collate` rounds a micro-batch's length up to.
_MULTIPLE = 32
# The longest of a hundred thousand prompts is so much longer than the longest of a thousand (Beauty: 1.1 in 15,000).
_BEYOND_THE_SAMPLE = 1.1


@dataclass(frozen=True)
class Lengths:
    """Tokens per prompt.

    Attributes:
        sample: [number] of some prompts, in an order that does not follow their length.
        limit: No prompt is longer.
        is_whole: The sample is all there is, so its longest is the longest.
    """

    sample: Sequence[int]
    limit: int
    is_whole: bool = False

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt as it is computed with: expected, padding included."""
        most = max(self.sample) if self.is_whole else int(max(self.sample) * _BEYOND_THE_SAMPLE)
        return rounded(min(most, self.limit))

    @property
    def mean(self) -> float:
        """Tokens of a prompt on the average."""
        return float(np.mean(self.sample))

    def quantile(self, share: float) -> int:
        """So many tokens or fewer has this share of the prompts."""
        return int(np.quantile(np.asarray(self.sample), share))

    def padded(self, micro_batch: int) -> float:
        """Tokens per prompt that are computed on the average, where so many prompts are padded to their longest."""
        lengths: NDArray[np.int64] = np.asarray(self.sample, dtype=np.int64)
        # Around again, so that the sample fills whole micro-batches.
        whole = np.resize(lengths, -(-len(lengths) // micro_batch) * micro_batch).reshape(-1, micro_batch)
        return float(np.mean([rounded(int(longest)) for longest in whole.max(axis=1)]))


def rounded(length: int) -> int:
    """As a micro-batch pads."""
    return -(-length // _MULTIPLE) * _MULTIPLE
