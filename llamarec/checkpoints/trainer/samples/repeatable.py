"""The check before the first step: the same key gives the same sample, the same batch and the same order."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from llamarec.checkpoints.trainer.samples import rng
from llamarec.checkpoints.trainer.samples.sampling import Key, KeyedCollator, KeyedDataset
from llamarec.checkpoints.trainer.state.tensors import same_tensor
from llamarec.errors import ConfigError

_HINT: Final = [
    "draw from the global generators of random, numpy or torch, or from a torch.Generator,",
    "numpy.random.Generator or random.Random that is an attribute; then a resume repeats every draw.",
    "CheckpointConfig(check_data=False), or --no_check_data, trains all the same, without that promise",
]
# With fewer, the fingerprint of the data has read them.
_ENOUGH: Final = 8


def check_repeatable(
    dataset: KeyedDataset,
    collator: KeyedCollator,
    order: Callable[[int], NDArray[np.int64]],
    *,
    dataset_name: str,
    collator_name: str,
) -> None:
    """Draws the first and the last sample twice, their batch, two others, and the first epoch's order.

    Args:
        dataset: The training data, keyed.
        collator: Likewise.
        order: (epoch) -> the epoch's order.
        dataset_name: For messages: its class.
        collator_name: Likewise.

    Raises:
        ConfigError: two draws differ, or a generator asks the operating system.
    """
    for name, generators in ((dataset_name, dataset.generators), (collator_name, collator.generators)):
        for one in generators.unkeyed():
            raise ConfigError(
                f"{name} holds {one}, which no resume can repeat",
                expected="random.Random(seed)",
                hint=_HINT[-1],
            )

    size = len(dataset)
    if not size:
        return

    keys: list[Key] = [(0, index) for index in sorted({0, size - 1})]
    pairs = [dataset[key] for key in keys]
    for key, (_, first) in zip(keys, pairs, strict=True):
        if not _is_same(first, dataset[key][1]):
            raise _differs(f"sample {key[1]} of {dataset_name} is another at each reading")

    _refuse_kept_draws(dataset, size, dataset_name)

    # Drawn again for each: a collator may change what it is given.
    if not _is_same(collator(pairs), collator([dataset[key] for key in keys])):
        raise _differs(f"{collator_name} makes another batch of the same samples each time")

    with _random_states_kept():
        if not np.array_equal(order(0), order(0)):
            raise ConfigError(
                "epoch_order returns another order each time it is asked for the same epoch",
                expected="a function of the seed and the epoch alone",
                hint="draw it from np.random.default_rng((self.args.seed, epoch))",
            )


def _refuse_kept_draws(dataset: KeyedDataset, size: int, name: str) -> None:
    """A data set that keeps what it drew at the first reading looks alike at each; a resumed process draws anew."""
    # Not those whose first reading made the fingerprint. Two, since one may only have set something up.
    keys: list[Key] = [(0, 1), (0, size - 2)] if size >= _ENOUGH else []
    if not keys or not all(_draws(dataset, key) and not _draws(dataset, key) for key in keys):
        return

    raise ConfigError(
        f"sample 1 of {name} draws random numbers at its first reading only, and is kept: a resumed process reads it "
        "first in another epoch, and draws others",
        expected="random numbers that are drawn at each reading, or before training",
        hint=["draw for all samples in __init__, from a seed, or keep the sample from before the draw", _HINT[-1]],
    )


def _draws(dataset: KeyedDataset, key: Key) -> bool:
    return not all(_is_same(before, after) for before, after in dataset.states_around(key))


def _differs(problem: str) -> ConfigError:
    return ConfigError(
        f"{problem}: it draws from a generator that a resume cannot set back, or changes a state of its own",
        expected="the same result for the same random states",
        hint=_HINT,
    )


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    before = rng.capture()
    try:
        yield
    finally:
        rng.set_states(before)


def _is_same(one: object, other: object) -> bool:
    """Whether two samples are equal bit for bit; what cannot be compared counts as equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return _same_tensors(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return _is_same(one.tolist(), other.tolist()) if one.dtype.hasobject else one.tobytes() == other.tobytes()
    if isinstance(one, str | bytes | int | complex | set | frozenset | None):
        return one == other
    if isinstance(one, float | np.generic):
        return repr(one) == repr(other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if dataclasses.is_dataclass(one):
        return _is_same(vars(one), vars(other)) if hasattr(one, "__dict__") else True

    return True


def _same_tensors(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype or one.layout != torch.strided:
        return one.shape == other.shape and one.dtype == other.dtype

    return same_tensor(one.cpu(), other.cpu())
