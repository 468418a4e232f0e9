"""Where two values of tensors, arrays, containers and plain values differ, bit for bit."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor

from llamarec.checkpoints.resume.safe_load import is_projector
from llamarec.checkpoints.trainer.state.tensors import same_tensor


def difference(a: object, b: object) -> str | None:
    """The path to the first difference; None if there is none.

    >>> difference({"a": [1, 2.0]}, {"a": [1, 3.0]})
    "['a'][1]"
    >>> difference([float("nan")], [float("nan")])
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return None if same_tensor(a, b) else ""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return None if a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() else ""

    pairs: list[tuple[object, object, object]] = []
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f" has the entries {_shown(b)}, not {_shown(a)}"
        pairs = [(key, a[key], b[key]) for key in a]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f" has {len(b)} entries, not {len(a)}"
        pairs = [(number, one, other) for number, (one, other) in enumerate(zip(a, b, strict=True))]
    elif type(a) is type(b) and is_projector(a):
        return difference(vars(a), vars(b))
    else:
        return None if type(a) is type(b) and (a == b or a != a) else ""

    for key, one, other in pairs:
        if one is not other and (path := difference(one, other)) is not None:
            return f"[{key!r}]{path}"
    return None


def _shown(keys: Iterable[object]) -> str:
    """Keys for a message; one may be a tensor."""
    return reprlib.repr(sorted(type(key).__name__ if isinstance(key, Tensor) else str(key) for key in keys))
