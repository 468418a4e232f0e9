"""One random generator of any kind: recognised, seeded, its state taken and given back."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import numpy as np
import torch

PlainState: TypeAlias = dict[str, Any]
"""`kind`, and `state` of numbers, texts, containers and tensors; `seeds`, what numpy's makes others from."""

Seeds: TypeAlias = dict[str, Any]
"""Arguments of `numpy.random.SeedSequence`."""

# numpy's default.
_POOL_SIZE: Final = 4

_KINDS: Final = (
    torch.Generator,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
    random.Random,
)
_LEGACY: Final = vars(np.random.mtrand)["_rand"]
# `rng.keyed` and the checkpoint take care of these.
_GLOBAL: Final = (vars(random)["_inst"], _LEGACY, _LEGACY._bit_generator, torch.default_generator)


def is_generator(value: object) -> bool:
    """Whether this is a random generator that is not one of the global ones."""
    return isinstance(value, _KINDS) and not any(value is one for one in _GLOBAL)


def has_state(one: object) -> bool:
    """Whether a generator has a state: not one that asks the operating system, or keeps its own apart from Python's."""
    if not isinstance(one, random.Random):
        return True

    kind = type(one)
    draws_itself = kind.random is not random.Random.random or kind.getrandbits is not random.Random.getrandbits
    return not (isinstance(one, random.SystemRandom) or (draws_itself and kind.getstate is random.Random.getstate))


def name_of(one: object) -> str:
    """The class of a generator, as its user writes it."""
    if isinstance(one, torch.Generator):
        return "torch.Generator"
    if isinstance(one, random.Random):
        return f"random.{type(one).__name__}" if type(one).__module__ == "random" else type(one).__name__
    return f"numpy.random.{type(one).__name__}"


def kind_of(one: object) -> str:
    """What two generators must have in common for one to take the other's state."""
    if isinstance(one, torch.Generator):
        return f"torch.Generator on {one.device.type}"
    if isinstance(one, np.random.RandomState):
        return f"RandomState with {type(one._bit_generator).__name__}"

    bits = _bits(one)
    return type(bits if bits is not None else one).__name__


def state_restorer(one: object) -> Callable[[], object]:
    """A function that gives a generator the state that it has now."""
    bits = _bits(one)
    if bits is not None:
        before, seeds = bits.state, _seeds_of(bits)
        return lambda: _set_bits(bits, before, seeds)
    if isinstance(one, np.random.RandomState):
        legacy, state = one, one.get_state(legacy=False)
        return lambda: legacy.set_state(state)
    if isinstance(one, torch.Generator):
        device, tensor = one, one.get_state()
        return lambda: device.set_state(tensor)

    python = cast(random.Random, one)
    internal = python.getstate()
    return lambda: python.setstate(internal)


def state_of(one: object) -> PlainState:
    """The state as values that a safe reader takes."""
    bits = _bits(one)
    state: object
    if bits is not None:
        state = bits.state
    elif isinstance(one, np.random.RandomState):
        state = one.get_state(legacy=False)
    elif isinstance(one, torch.Generator):
        state = one.get_state().cpu()
    else:
        state = cast(random.Random, one).getstate()

    seeds = _seeds_of(bits) if bits is not None else None
    return {"kind": kind_of(one), "state": _plain(state), **({"seeds": seeds} if seeds is not None else {})}


def set_state(one: object, saved: PlainState) -> None:
    """Gives a generator a state of `state_of`."""
    bits, state = _bits(one), saved["state"]
    if bits is not None:
        # Older checkpoints have no seeds.
        _set_bits(bits, state, saved.get("seeds"))
    elif isinstance(one, np.random.RandomState | torch.Generator):
        one.set_state(state)
    else:
        cast(random.Random, one).setstate(state)


def seed(one: object, key: list[int]) -> None:
    """Seeds a generator from a key of non-negative integers."""
    sequence = np.random.SeedSequence(key)
    bits = _bits(one)
    if bits is not None:
        _set_bits(bits, type(bits)(sequence).state, _described(sequence))
    elif isinstance(one, np.random.RandomState):
        kind = type(one._bit_generator)
        one.set_state(np.random.RandomState(kind(sequence)).get_state(legacy=False))
    else:
        high, low = sequence.generate_state(2).tolist()
        if isinstance(one, torch.Generator):
            one.manual_seed((high << 31) + low)
        else:
            cast(random.Random, one).seed((high << 32) + low)


def _bits(one: object) -> np.random.BitGenerator | None:
    """What a generator of numpy draws from; several can share it."""
    if isinstance(one, np.random.Generator):
        return one.bit_generator
    return one if isinstance(one, np.random.BitGenerator) else None


def _seeds_of(bits: np.random.BitGenerator) -> Seeds | None:
    """What `spawn()` makes other generators from; None where these are of a program's own kind."""
    sequence = getattr(bits, "seed_seq", None)
    # A larger pool is nobody's, and a file must not ask for memory.
    if type(sequence) is not np.random.SeedSequence or sequence.pool_size != _POOL_SIZE:
        return None

    return _described(sequence)


def _described(sequence: np.random.SeedSequence) -> Seeds:
    entropy = sequence.entropy
    return {
        "entropy": entropy if isinstance(entropy, int | None) else [int(part) for part in entropy],
        "spawn_key": [int(part) for part in sequence.spawn_key],
        "n_children_spawned": int(sequence.n_children_spawned),
    }


def _set_bits(bits: np.random.BitGenerator, state: object, seeds: Seeds | None) -> None:
    bits.state = cast(Any, state)
    there: Any = getattr(bits, "seed_seq", None)
    if seeds is not None and _seeds_of(bits) not in (None, seeds):
        # In place: the program may hold it. numpy has no other way to count back.
        content = np.random.SeedSequence(**seeds).__reduce__()
        # Before numpy 2 the unpickled object has no state of its own, and the method another name.
        set_content = getattr(there, "__setstate_cython__", None) or there.__setstate__
        set_content(content[2] if len(content) > 2 else content[1][2])


def _plain(value: object) -> object:
    """Arrays as lists, which keep every bit of a whole number."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value
