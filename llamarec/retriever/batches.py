"""Sequences concatenated on one axis, without padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamarec.data.prepared import Sequences

# The purpose of a random draw is part of its key.
_ORDER_STREAM = 1


class Packed(NamedTuple):
    """Items of several sequences on one axis.

    items_T: [tokens] item ids. positions_T: [tokens] position within the own sequence, from 0. lasts_B: [batch] index
    of each sequence's last token.
    """

    items_T: Tensor
    positions_T: Tensor
    lasts_B: Tensor


def pack(sequences: Sequence[NDArray[np.int32]]) -> Packed:
    """Packs non-empty sequences of item ids."""
    lengths = np.array([len(sequence) for sequence in sequences])
    ends = np.cumsum(lengths)
    positions = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    items = np.concatenate(sequences).astype(np.int64)
    return Packed(torch.from_numpy(items), torch.from_numpy(positions), torch.from_numpy(ends - 1))


def training_windows(
    sequences: Sequences, max_length: int, stride: int, users: Iterable[int] | None = None
) -> list[NDArray[np.int32]]:
    """Windows of the users' training parts, each of max_length + 1 items at most.

    The first item of a window is only an input, the last one only a label.

    Args:
        sequences: Sequences of all users.
        max_length: Inputs per window.
        stride: Longer sequences give windows that end so many items apart, from the last one back; 0: only the last.
        users: Ids of the users; None: all.
    """
    windows = []
    for user in range(len(sequences.train_ends)) if users is None else users:
        items = sequences.train(user)
        end = len(items)

        while end >= 2:
            start = max(0, end - max_length - 1)
            windows.append(items[start:end])
            end = end - stride if stride and start else 0

    return windows


def epoch_batches(num_windows: int, batch_size: int, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Indices of the windows of each step; the order depends on (seed, epoch) alone."""
    order = np.random.default_rng([seed, _ORDER_STREAM, epoch]).permutation(num_windows)
    yield from (order[start : start + batch_size] for start in range(0, num_windows, batch_size))
