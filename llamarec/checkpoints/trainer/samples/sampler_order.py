"""The order of samples from a sampler of the program: a function of (seed, epoch) alone, whatever it draws from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import RandomSampler

from llamarec.checkpoints.trainer.samples import rng
from llamarec.checkpoints.trainer.samples.generators import HeldGenerators
from llamarec.errors import ConfigError

Sampler: TypeAlias = Iterable[int] | None
"""Gives the indices of an epoch; None leaves the order to the Trainer."""


def is_of_trainer(sampler: Sampler) -> bool:
    """Whether a sampler asks for nothing but what the Trainer itself would draw."""
    if sampler is None or type(sampler) is not RandomSampler:
        return sampler is None

    is_plain = not sampler.replacement and sampler.generator is None
    return is_plain and sampler.num_samples == len(sampler.data_source)


class SamplerOrder:
    """Orders of epochs that a sampler gives.

    The sampler is made again for an earlier epoch, and iterated once for each epoch before the wanted one, so that one
    that counts its epochs is where it would be. What it draws is keyed by seed and epoch.

    Args:
        make: Makes the sampler.
        seed: Of the run.
    """

    def __init__(self, make: Callable[[], Sampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._sampler: Sampler = None
        self._next_epoch = 0
        self._num_samples: int | None = None

    def is_of_trainer(self) -> bool:
        """Whether the order is left to the Trainer."""
        return is_of_trainer(self._made(0))

    def num_samples(self) -> int:
        """Samples of an epoch."""
        if self._num_samples is None:
            sampler = self._made(0)
            self._num_samples = len(sampler) if isinstance(sampler, Sized) else len(self._drawn(sampler, 0))

        return self._num_samples

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        """The order of an epoch.

        Raises:
            ConfigError: the sampler gives something else than indices.
        """
        if self._sampler is None or epoch < self._next_epoch:
            self._sampler, self._next_epoch = self._made(epoch), 0

        indices: list[int] = []
        for number in range(self._next_epoch, epoch + 1):
            indices = self._drawn(self._sampler, number)

        self._next_epoch = epoch + 1
        if len(indices) != self.num_samples():
            raise ConfigError(
                f"the sampler of _get_train_sampler gives {len(indices)} samples in epoch {epoch}",
                expected=f"{self.num_samples()}, its length, in every epoch",
                hint="let every epoch of the sampler have the same length, and its __len__ return it",
            )

        return _as_order(indices)

    def _made(self, epoch: int) -> Sampler:
        with rng.keyed(self._seed, rng.ORDER_STREAM, epoch):
            return self._make()

    def _drawn(self, sampler: Sampler, epoch: int) -> list[int]:
        set_epoch = getattr(sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)

        held = HeldGenerators(sampler)
        with rng.keyed(self._seed, rng.ORDER_STREAM, epoch), held.keyed(self._seed, rng.ORDER_STREAM, epoch):
            return list(sampler or ())


def check_same_order(saved: str, now: str, epoch: int) -> None:
    """Whether an epoch that is resumed in its middle has the order that it was begun with.

    Args:
        saved: `SliceSampler.order_digest` of the training that was saved; empty where it had none.
        now: Likewise of this one.
        epoch: 0-based.

    Raises:
        ConfigError: the two differ.
    """
    if saved == now or not saved:
        return

    raise ConfigError(
        f"the sampler of _get_train_sampler gives another order of epoch {epoch} than the one that was begun",
        expected="an order that depends on the seed, the epoch and the arguments of the training alone",
        found=f"checksum {now or 'of no sampler'}, saved {saved}",
        hint=[
            "make the sampler as it was: same class, arguments and batch sizes;",
            "or resume a checkpoint at the end of an epoch. A sampler that follows the losses cannot be resumed.",
        ],
    )


def _as_order(indices: list[int]) -> NDArray[np.int64]:
    for index in indices:
        if not isinstance(index, int | np.integer):
            raise ConfigError(
                "the sampler of _get_train_sampler does not give the index of one sample at a time",
                expected="integers",
                found=f"{index!r}"[:100],
                hint="return a sampler of indices; per_device_train_batch_size cuts them into batches",
            )

    return np.asarray(indices, dtype=np.int64)
