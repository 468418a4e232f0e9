"""Lengths of prompts, estimated from a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LENGTH_MULTIPLE = 32
"""Padded lengths in half precision are multiples of it: oneDNN generates and keeps code for every new shape of a
bfloat16 product, and without rounding every prompt has its own shape. In float32 nothing is generated or rounded."""
# The longest of all prompts is this much longer than the longest of a sample (Beauty: 1.1 in 15,000 prompts).
_BEYOND_THE_SAMPLE = 1.1


@dataclass(frozen=True)
class Lengths:
    """Tokens per prompt.

    Attributes:
        sample: Lengths of some prompts, not ordered by length.
        limit: Tokens that no prompt exceeds.
        is_whole: The sample holds all prompts.
    """

    sample: Sequence[int]
    limit: int
    is_whole: bool = False

    @property
    def longest(self) -> int:
        """Expected tokens of the longest prompt, padding included."""
        most = max(self.sample) if self.is_whole else int(max(self.sample) * _BEYOND_THE_SAMPLE)
        return rounded(min(most, self.limit))

    @property
    def mean(self) -> float:
        """Average tokens of a prompt."""
        return float(np.mean(self.sample))

    def quantile(self, share: float) -> int:
        """Tokens that this share of the prompts does not exceed."""
        return int(np.quantile(np.asarray(self.sample), share))

    def padded(self, micro_batch: int) -> float:
        """Average tokens per prompt in micro-batches that are padded to their longest prompt."""
        lengths: NDArray[np.int64] = np.asarray(self.sample, dtype=np.int64)
        # The sample is repeated to fill whole micro-batches.
        whole = np.resize(lengths, -(-len(lengths) // micro_batch) * micro_batch).reshape(-1, micro_batch)
        return float(np.mean([rounded(int(longest)) for longest in whole.max(axis=1)]))


def rounded(length: int, multiple: int = LENGTH_MULTIPLE) -> int:
    """A padded length: the next multiple."""
    return -(-length // multiple) * multiple
