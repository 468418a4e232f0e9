"""Random generators beside the three global ones: held by a data set, a collator, a transform or a sampler.

Each is keyed before a call and has its state of before afterwards, as the global ones are (`rng.keyed`). So neither the
order of the samples, nor the number of workers, nor a resume changes what they draw.
"""

from __future__ import annotations

import contextlib
import random
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, cast

import numpy as np
import torch

from llamarec.checkpoints.trainer.samples import rng
from llamarec.checkpoints.trainer.samples.object_walk import ObjectWalk

Result = TypeVar("Result")
_KINDS: Final = (
    torch.Generator,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
    random.Random,
)
# Entries of dictionaries, as a walk writes them.
_NUMBERED: Final = re.compile(r"\{-?\d+\}")
_LEGACY: Final = vars(np.random.mtrand)["_rand"]
# `rng.keyed` and the checkpoint take care of these.
_GLOBAL: Final = (vars(random)["_inst"], _LEGACY, _LEGACY._bit_generator, torch.default_generator)


def is_generator(value: object) -> bool:
    """Whether this is a random generator that is not one of the global ones."""
    return isinstance(value, _KINDS) and not any(value is one for one in _GLOBAL)


class HeldGenerators:
    """The generators that can be reached from an object.

    Args:
        root: A data set, a collator, a function.
    """

    def __init__(self, root: object) -> None:
        self._root = root
        self._walk: ObjectWalk | None = None

    def __getstate__(self) -> dict[str, object]:
        # In another process they are other objects.
        return {"_root": self._root, "_walk": None}

    def found(self) -> dict[str, object]:
        """Generators by their path from the root, in the order of the walk."""
        if self._walk is None:
            self._walk = ObjectWalk(self._root, is_generator)

        return self._walk.found

    def unkeyed(self) -> list[str]:
        """Paths of generators that have no state: those that ask the operating system."""
        return [path for path, one in self.found().items() if isinstance(one, random.SystemRandom)]

    def draw(self, call: Callable[[], Result], *key: int) -> Result:
        """What a call returns with every generator, the global ones too, keyed.

        A generator that the call itself made or replaced was not keyed: then it is called once more, so that the
        first call of a process returns what any other does.
        """
        with rng.keyed(*key), self.keyed(*key):
            result = call()

        if not self.are_others():
            return result

        with rng.keyed(*key), self.keyed(*key):
            return call()

    @contextlib.contextmanager
    def keyed(self, *key: int) -> Iterator[None]:
        """Within, what they draw depends on the key and on their path alone; afterwards they have their states."""
        restores = []
        for path, one in self.found().items():
            if not isinstance(one, random.SystemRandom):
                # In reverse order later: two may share what they draw from.
                restores.append(_state_restorer(one))
                # In whatever worker: one that is kept by a worker's number draws what the others' would.
                name = _NUMBERED.sub("{}", path)
                _seed(one, [part % 2**63 for part in (*key, zlib.crc32(name.encode()))])

        try:
            yield
        finally:
            for restore in reversed(restores):
                restore()

    def are_others(self) -> bool:
        """Looks again, where anything on the way has changed since; whether other generators are found now."""
        if self._walk is None or not self._walk.has_changed():
            return False

        before, self._walk = self._walk, None
        return {id(one) for one in before.found.values()} != {id(one) for one in self.found().values()}


# ---- One generator of any kind ----


def _bits(one: object) -> np.random.BitGenerator | None:
    """What a generator of numpy draws from; several can share it."""
    if isinstance(one, np.random.Generator):
        return one.bit_generator
    return one if isinstance(one, np.random.BitGenerator) else None


def _state_restorer(one: object) -> Callable[[], object]:
    """A function that gives a generator the state that it has now."""
    bits = _bits(one)
    if bits is not None:
        before = bits.state
        return lambda: setattr(bits, "state", before)
    if isinstance(one, np.random.RandomState):
        legacy, state = one, one.get_state(legacy=False)
        return lambda: legacy.set_state(state)
    if isinstance(one, torch.Generator):
        device, tensor = one, one.get_state()
        return lambda: device.set_state(tensor)

    python = cast(random.Random, one)
    internal: Any = random.Random.getstate(python)
    return lambda: random.Random.setstate(python, internal)


def _seed(one: object, key: list[int]) -> None:
    sequence = np.random.SeedSequence(key)
    bits = _bits(one)
    if bits is not None:
        bits.state = type(bits)(sequence).state
    elif isinstance(one, np.random.RandomState):
        kind = type(one._bit_generator)
        one.set_state(np.random.RandomState(kind(sequence)).get_state(legacy=False))
    else:
        high, low = sequence.generate_state(2).tolist()
        if isinstance(one, torch.Generator):
            one.manual_seed((high << 31) + low)
        else:
            random.Random.seed(cast(random.Random, one), (high << 32) + low)
