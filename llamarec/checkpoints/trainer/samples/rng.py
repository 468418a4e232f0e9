"""Random states: captured, restored, and kept out of the way of the data.

The states are stored as the Trainer stores them (`rng_state.pth`), so that either can resume the other's.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
import torch

# The purpose of a draw is part of its key, so that no two purposes share a stream.
SAMPLE_STREAM: Final = 11
COLLATE_STREAM: Final = 12
PROCESS_STREAM: Final = 13
EVALUATION_STREAM: Final = 14
ORDER_STREAM: Final = 15

States: TypeAlias = dict[str, Any]
"""By generator ("python", "numpy", "cpu", "cuda", "mps"), its state in that library's own form."""


def capture() -> States:
    """The state of every generator that a training draws from."""
    states: States = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }

    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()

    return states


def set_states(states: States) -> None:
    """Sets the generators to captured states; those that this machine does not have are left out."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.random.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        # Several processes store the states of all devices; ours is the current one.
        cuda = states["cuda"]
        torch.cuda.set_rng_state(cuda[torch.cuda.current_device()] if isinstance(cuda, list) else cuda)
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def seed_from(*key: int) -> None:
    """Seeds the generators of Python, numpy and torch on the CPU from a key of non-negative integers."""
    python, legacy, high, low = np.random.SeedSequence([part % 2**63 for part in key]).generate_state(4).tolist()
    random.seed(python)
    np.random.seed(legacy)
    # Not torch.manual_seed: that would seed the devices too.
    torch.default_generator.manual_seed((high << 31) + low)


@contextlib.contextmanager
def keyed(*key: int) -> Iterator[None]:
    """Within, random draws depend on the key alone; afterwards the generators have their states of before."""
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    seed_from(*key)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])
