"""Training data by keys: batches are slices of one order, and a sample's random draws depend on its key alone.

A key is (epoch, index). What a dataset or a collator draws from the global generators of Python, numpy or torch, or
from generators that it holds, comes from a stream of its own for each sample (each micro-batch), in the main process
and in workers alike. So neither resuming in mid-epoch nor another number of workers changes a sample, and the data
never disturb dropout's stream.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from llamarec.checkpoints.resume.position import Geometry, Position, micro_batches, step_slices
from llamarec.checkpoints.trainer.samples.generators import HeldGenerators
from llamarec.checkpoints.trainer.samples.rng import COLLATE_STREAM, SAMPLE_STREAM

Result = TypeVar("Result")
Batch: TypeAlias = Any
"""What the collator returns. The model takes it apart; this room only cuts tensors and lists in it."""
Samples: TypeAlias = Any
"""A map-style dataset: `len(samples)` and `samples[index]`, whatever class it is."""
Sample: TypeAlias = Any
"""What such a dataset returns, and the collator takes."""
Collator: TypeAlias = Callable[[list[Sample]], Batch]
"""From samples to a batch."""
Key: TypeAlias = tuple[int, int]
"""(epoch, index of the sample in the dataset)."""


class KeyedDataset(Dataset[tuple[Key, Sample]]):
    """Hands out (key, sample).

    Args:
        dataset: Map-style.
        seed: Of the run.
        by_epoch: The dataset itself is indexed by (epoch, index) instead of by the index.

    Attributes:
        generators: That the dataset holds.
    """

    def __init__(self, dataset: Samples, seed: int, *, by_epoch: bool = False) -> None:
        self._dataset, self._seed, self._by_epoch = dataset, seed, by_epoch
        self.generators = HeldGenerators(dataset)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: Key) -> tuple[Key, Sample]:
        return key, self._drawn(key, self._read)

    def states_around(self, key: Key) -> list[tuple[object, object]]:
        """Reads a sample; the states of all generators before each reading, and after it."""
        states: list[tuple[object, object]] = []

        def read(key: Key) -> None:
            before = self.generators.states()
            self._read(key)
            states.append((before, self.generators.states()))

        self._drawn(key, read)
        return states

    def _drawn(self, key: Key, read: Callable[[Key], Result]) -> Result:
        return self.generators.draw(lambda: read(key), self._seed, SAMPLE_STREAM, *key)

    def _read(self, key: Key) -> Sample:
        return self._dataset[key if self._by_epoch else key[1]]


class KeyedCollator:
    """Collates the samples of a micro-batch; random draws depend on its first key.

    Args:
        collator: From samples to a batch.
        seed: Of the run.

    Attributes:
        generators: That the collator holds.
    """

    def __init__(self, collator: Collator, seed: int) -> None:
        self._collator, self._seed = collator, seed
        self.generators = HeldGenerators(collator)

    def __call__(self, pairs: Sequence[tuple[Key, Sample]]) -> Batch:
        epoch, index = pairs[0][0]
        # A new list each time: the collator may empty it.
        return self.generators.draw(
            lambda: self._collator([sample for _, sample in pairs]), self._seed, COLLATE_STREAM, epoch, index
        )


class SliceSampler(Sampler[list[Key]]):
    """The micro-batches of one process, from a position to the end of its epoch.

    Args:
        geometry: Of the epoch and the step.
        order: (epoch) -> the epoch's order, a permutation of [num_samples] or more.
        micro_batch: Samples per forward pass and process.
        rank: Of this process.
        num_processes: How many share a step.
        is_own_order: The order is a sampler's of the program, which may depend on more than seed and epoch.
    """

    def __init__(
        self,
        geometry: Geometry,
        order: Callable[[int], NDArray[np.int64]],
        micro_batch: int,
        *,
        rank: int = 0,
        num_processes: int = 1,
        is_own_order: bool = False,
    ) -> None:
        self.geometry, self._draw, self._micro_batch = geometry, order, micro_batch
        self._rank, self._num_processes, self._is_own_order = rank, num_processes, is_own_order
        self._drawn: tuple[int, NDArray[np.int64]] | None = None
        self.position = Position()

    def order_digest(self) -> str:
        """Of the present epoch's order where it is a program's sampler's; else empty."""
        return f"{zlib.crc32(self._order(self.position.epoch).tobytes()):08x}" if self._is_own_order else ""

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, self._draw(epoch)

        return self._drawn[1]

    def pieces(self, step: range) -> list[range]:
        """The micro-batches into which this process cuts its part of a step."""
        return micro_batches(step, self._micro_batch, self._rank, self._num_processes)

    def __len__(self) -> int:
        per_step = -(-self.geometry.batch // (self._micro_batch * self._num_processes))
        return max(per_step * self.geometry.steps_per_epoch, 1)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = self.position.epoch, self._order(self.position.epoch)
        for step in step_slices(self.geometry, self.position.sample):
            for piece in self.pieces(step):
                yield [(epoch, int(order[position])) for position in piece]
