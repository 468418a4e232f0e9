"""Reading what a checkpoint holds without executing anything in it.

Everything that is pickled is read with `weights_only`: tensors, numbers, texts and containers, and the few types that
random states need. What asks for anything else is refused by its name.
"""

from __future__ import annotations

import pickle
import re
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from llamarec.checkpoints.storage import shapes
from llamarec.checkpoints.storage.layout import PICKLE_SUFFIXES, TRAINING_ARGS
from llamarec.checkpoints.storage.shapes import ShapeError
from llamarec.errors import CheckpointError

# The function that rebuilds an array, wherever this numpy keeps it.
_rebuild_array = np.empty(0).__reduce__()[0]
_NUMPY_TYPES: list[Any] = [
    (_rebuild_array, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
    # As numpy 1 called it.
    (_rebuild_array, "numpy.core.multiarray._reconstruct"),
]

# Their functions run code; what their own arguments need is imported by now.
_LIBRARIES = ("torch", "numpy", "transformers", "accelerate", "pip", "setuptools")


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
        with torch.serialization.safe_globals([*_NUMPY_TYPES, *(allowed or [])]), warnings.catch_warnings():
            # It is refused, or it is good; there is nothing to be warned of.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except pickle.UnpicklingError as error:
        raise _hostile(path, _refused(str(error))) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read: {type(error).__name__}", found=str(error).strip().partition("\n")[0]
        ) from error


def _hostile(path: Path, found: str, hint: str = "") -> CheckpointError:
    return CheckpointError(
        f"{path} is refused: it holds more than tensors and plain values, and loading it could execute code",
        expected="a file that torch.load(weights_only=True) reads",
        found=found,
        hint=hint or "do not load it by other means unless you made it; resume from another checkpoint",
    )


def refuse_hostile(checkpoint: Path, allowed: frozenset[str] = frozenset(), *, is_preview: bool = False) -> None:
    """Looks through every pickled file of a checkpoint, also those that a resume does not load, and executes nothing.

    Args:
        checkpoint: The folder.
        allowed: 'training_args.bin' (or 'all') if that file, which is never loaded, may hold classes not known here.
        is_preview: That file may hold classes of programs that are not imported here, as the user's own is not.

    Raises:
        CheckpointError: a file asks for more than tensors, plain values and training arguments.
    """
    for path in sorted(path for path in checkpoint.rglob("*") if path.suffix in PICKLE_SUFFIXES):
        if path.name != TRAINING_ARGS:
            asked = _asked_for(path)
        elif allowed & {TRAINING_ARGS, "all"}:
            continue
        else:
            asked = [
                name
                for name in _asked_for(path)
                if not _is_of_arguments(name) and not (is_preview and _is_of_unknown_program(name))
            ]
        if asked:
            own = path.name == TRAINING_ARGS
            raise _hostile(
                path,
                f"it asks for {', '.join(sorted(asked))}",
                f"it is never loaded here; if it is your own: --allow_changed {TRAINING_ARGS}" if own else "",
            )


def _asked_for(path: Path) -> list[str]:
    """Names that a file's pickle asks for beyond what is safe; read from its instructions, which are not followed."""
    if not zipfile.is_zipfile(path):
        # Before torch 1.6; small, or not ours at all.
        load_pickled(path)
        return []
    try:
        with torch.serialization.safe_globals(_NUMPY_TYPES):
            return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except pickle.UnpicklingError as error:
        raise _hostile(path, _refused(str(error))) from error
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}", found=str(error)) from error


def _is_of_arguments(name: str) -> bool:
    """Whether a name is that of a class which training arguments consist of, as far as this program has imported it."""
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)
    if not isinstance(found, type):
        return False
    return is_dataclass(found) or issubclass(found, Enum | PurePath | torch.device | torch.dtype | PartialState)


def _is_of_unknown_program(name: str) -> bool:
    """Whether a name can be one of the user's own script, which this process has not imported."""
    module, _, attribute = name.rpartition(".")
    if module == "__main__":
        return not hasattr(sys.modules[module], attribute)

    # Pickles call the standard library's modules by their names of Python 2.
    renamed = {*IMPORT_MAPPING, *(old for old, _ in NAME_MAPPING)}
    known = {*sys.stdlib_module_names, *renamed, *_LIBRARIES}
    return module not in sys.modules and module not in renamed and module.partition(".")[0] not in known


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
            return load_safetensors(path) if path.suffix == ".safetensors" else dict(load_pickled(path))
    return None


def weights_in(folder: Path) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors of a model in a folder, shard by shard; nothing where there is none.

    Raises:
        CheckpointError: a file is missing, damaged or hostile.
    """
    whole = load_weights(folder)
    if whole is not None:
        yield whole
        return

    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / name).is_file():
            index = load_json(folder / name).get("weight_map")
            shards = set(index.values()) if isinstance(index, dict) else set()
            for path in sorted(folder / PurePath(str(shard)).name for shard in shards):
                yield load_safetensors(path) if path.suffix == ".safetensors" else dict(load_pickled(path))
            return


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: the file is not there or is none.
    """
    try:
        return shapes.read_object(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (OSError, ShapeError) as error:
        raise CheckpointError(f"{path} cannot be read", expected="a JSON object", found=str(error)) from error


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file.

    Raises:
        CheckpointError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read", found=str(error)) from error
