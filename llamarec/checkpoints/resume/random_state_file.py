"""The form of random states in `rng_state.pth`, and a reading of it that no content can turn against the memory.

numpy builds arrays of any type over bytes of the file, pointers included, and takes positions in its state unchecked.
So none of its constructors may be called: states are written as lists of numbers. Files of a plain Trainer, and older
ones, hold an array of numpy; stand-ins for its constructors accept the 624 numbers of the Mersenne Twister and nothing
else.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import torch

from llamarec.errors import CheckpointError

_MERSENNE: Final = "MT19937"
_NUM_WORDS: Final = 624
_PHILOX_BUFFER: Final = 4


class StoredType:
    """Stands for `numpy.dtype`: the one of the Mersenne Twister's words."""

    def __init__(self, *args: object) -> None:
        if args != ("u4", False, True):
            raise pickle.UnpicklingError("class numpy.dtype of another kind than uint32")
        self.order = "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "="):
            raise pickle.UnpicklingError("class numpy.dtype with another state")
        self.order = {"<": "<", ">": ">", "=": "<" if sys.byteorder == "little" else ">"}[state[1]]


class StoredArray:
    """Stands for `numpy.ndarray`: the Mersenne Twister's words.

    Attributes:
        words: [624] numbers of 32 bits; None before the file has given them.
    """

    def __init__(self, *args: object) -> None:
        if args:
            raise pickle.UnpicklingError("class numpy.ndarray over bytes of the file")
        self.words: list[int] | None = None

    def __new__(cls, *args: object) -> StoredArray:
        """Refuses arguments, which a pickle may give without `__init__`."""
        if args:
            raise pickle.UnpicklingError("class numpy.ndarray over bytes of the file")
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("class numpy.ndarray with another state")
        version, shape, kind, _, raw = state
        is_of_twister = version == 1 and shape == (_NUM_WORDS,) and isinstance(kind, StoredType)
        if not is_of_twister or not isinstance(raw, bytes) or len(raw) != 4 * _NUM_WORDS:
            raise pickle.UnpicklingError("class numpy.ndarray of another kind than 624 numbers of 32 bits")
        self.words = np.frombuffer(raw, dtype=f"{kind.order}u4").tolist()


def stored_array(kind: object, shape: object, code: object) -> StoredArray:
    """Stands for `numpy._core.multiarray._reconstruct`, which makes an empty array."""
    if kind is not StoredArray or shape != (0,) or code not in (b"b", "b"):
        raise pickle.UnpicklingError("function numpy._core.multiarray._reconstruct with other arguments")
    return StoredArray()


STAND_INS: Final[list[tuple[Callable[..., object], str]]] = [
    (stored_array, "numpy._core.multiarray._reconstruct"),
    # Its name in numpy 1.
    (stored_array, "numpy.core.multiarray._reconstruct"),
    (StoredArray, "numpy.ndarray"),
    (StoredType, "numpy.dtype"),
    # What transformers allows beside them; no such file asks for it.
    (StoredType, "numpy.dtypes.UInt32DType"),
]
"""By its name in a file, what is called in the place of a constructor of numpy."""


def as_stored(states: Mapping[str, Any]) -> dict[str, Any]:
    """Random states as a file has them: numpy's as a list, which `numpy.random.set_state` takes as well."""
    name, words, *rest = states["numpy"]
    return {**states, "numpy": (name, [int(word) for word in words], *rest)}


def read_form(content: object) -> object:
    """What a file holds, with lists in the place of stand-ins."""
    if isinstance(content, StoredArray):
        return content.words
    if isinstance(content, tuple):
        return tuple(map(read_form, content))
    if isinstance(content, dict):
        return {name: read_form(value) for name, value in content.items()}
    return content


def check_form(content: object, where: str, *, needs_all: bool = True) -> dict[str, Any]:
    """Random states, each of the form that its generator has.

    Args:
        content: What a file holds.
        where: The file, for messages.
        needs_all: Whether Python, numpy and torch must each have one; else only what is there is looked at.

    Raises:
        CheckpointError: names the first that has another form.
    """
    if not isinstance(content, dict):
        raise _of_another_form(where, "random states by generator", type(content).__name__)

    for name, is_right in _CHECKS.items():
        is_needed = needs_all and name in ("python", "numpy", "cpu")
        if (name in content or is_needed) and not is_right(content.get(name)):
            raise _of_another_form(where, f"the state of a generator: {name}", _kind(content.get(name)))

    if needs_all and content["cpu"].shape != torch.get_rng_state().shape:
        raise _of_another_form(where, "the state of a generator: cpu", f"{len(content['cpu'])} bytes")
    held = content.get("held")
    if held is not None and not (isinstance(held, dict) and all(map(_is_held, held.items()))):
        raise _of_another_form(where, "states by path, each with kind and state: held", _kind(held))
    return cast("dict[str, Any]", content)


def _of_another_form(where: str, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{where} cannot be read",
        expected=expected,
        found=found,
        hint="resume from another checkpoint (llamarec checkpoints list)",
    )


def _kind(value: object) -> str:
    return "nothing" if value is None else f"another {type(value).__name__}"


def _is_python(state: object) -> bool:
    """As `random.getstate` returns it."""
    if not isinstance(state, tuple) or len(state) != 3 or state[0] != 3:
        return False
    *words, position = state[1] if isinstance(state[1], tuple) and state[1] else (None,)
    return _are_words(words) and _is_whole(position, _NUM_WORDS) and isinstance(state[2], float | None)


def _is_legacy_numpy(state: object) -> bool:
    """As `numpy.random.get_state` returns it, with the words as a list."""
    if not isinstance(state, tuple) or len(state) != 5 or state[0] != _MERSENNE:
        return False
    _, words, position, has_gauss, gauss = state
    # numpy does not check the position, and would read behind the words.
    return _are_words(words) and _is_whole(position, _NUM_WORDS) and _is_whole(has_gauss, 1) and _is_float(gauss)


def _is_of_device(state: object) -> bool:
    """The state of a device's generator, or one for each device."""
    states = state if isinstance(state, list) else [state]
    return all(isinstance(one, torch.Tensor) and one.dtype == torch.uint8 and one.dim() == 1 for one in states)


def _is_of_cpu(state: object) -> bool:
    return isinstance(state, torch.Tensor) and _is_of_device(state)


_CHECKS: Final[dict[str, Callable[[object], bool]]] = {
    "python": _is_python,
    "numpy": _is_legacy_numpy,
    "cpu": _is_of_cpu,
    "cuda": _is_of_device,
    "mps": _is_of_device,
}


def _is_held(item: tuple[object, object]) -> bool:
    path, saved = item
    if not isinstance(path, str) or not isinstance(saved, dict) or not isinstance(saved.get("kind"), str):
        return False
    return "state" in saved and _is_sound(saved["state"])


def _is_sound(state: object) -> bool:
    """Whether no position in a state of numpy leads out of it; other values are checked where they are set."""
    if not isinstance(state, dict):
        return True

    inner = state.get("state")
    if isinstance(inner, dict) and "pos" in inner and not _is_whole(inner["pos"], _NUM_WORDS):
        return False
    if isinstance(inner, dict) and "pos" in inner and not _are_words(inner.get("key")):
        return False
    if "buffer_pos" in state and not _is_whole(state["buffer_pos"], _PHILOX_BUFFER):
        return False
    return "has_gauss" not in state or _is_whole(state["has_gauss"], 1)


def _are_words(values: object) -> bool:
    if not isinstance(values, Sequence) or len(values) != _NUM_WORDS:
        return False
    return all(_is_whole(word, 2**32 - 1) for word in values)


def _is_whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _is_float(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)
