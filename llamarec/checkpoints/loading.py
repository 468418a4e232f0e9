"""Reading what a checkpoint holds without executing anything in it.

Everything that is pickled is read with `weights_only`: tensors, numbers, texts and containers, and the few types that
random states need. What asks for anything else is refused by its name.
"""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llamarec.errors import CheckpointError

_NUMPY_TYPES: list[Any] = [
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
]


def load_pickled(path: Path, *, map_location: Any = "cpu", allowed: list[Any] | None = None) -> Any:
    """The content of a .bin, .pt or .pth file.

    Args:
        path: The file.
        map_location: As in `torch.load`.
        allowed: Further types that may be in it.

    Raises:
        CheckpointError: it is not there, damaged, or would execute code.
    """
    try:
        with torch.serialization.safe_globals([*_NUMPY_TYPES, *(allowed or [])]):
            return torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it holds more than tensors and plain values, and loading it could execute code",
            expected="a file that torch.load(weights_only=True) reads",
            found=_refused(str(error)),
            hint="do not load it by other means unless you made it; resume from another checkpoint",
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read: {type(error).__name__}", found=str(error).strip().partition("\n")[0]
        ) from error


def _refused(text: str) -> str:
    """What a file asks for, out of torch's message, whose advice (to load it all the same) is not ours."""
    asked = re.search(r"(?:GLOBAL|function|class) ([\w.]+)", text)
    return f"it asks for {asked[1]}" if asked else "a pickle instruction that none of these needs"


def load_weights(folder: Path) -> dict[str, torch.Tensor] | None:
    """The tensors of an adapter or of an unsharded model in a folder; None where it has another form.

    Raises:
        CheckpointError: the file is damaged or hostile.
    """
    for name in ("adapter_model.safetensors", "adapter_model.bin", "model.safetensors", "pytorch_model.bin"):
        path = folder / name
        if path.is_file():
            return _load_safetensors(path) if path.suffix == ".safetensors" else dict(load_pickled(path))
    return None


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: the file is not there or is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read", expected="JSON", found=str(error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no JSON object")
    return content


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read", found=str(error)) from error
