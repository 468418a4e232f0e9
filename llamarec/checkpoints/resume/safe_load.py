"""Reading the files of a checkpoint without executing anything in them.

Pickled files are read with `weights_only`: tensors, numbers, texts and containers. `rng_state.pth` may name numpy's
array; `random_state_file` puts in its place what reads 624 numbers and nothing else. A file that asks for anything
else is refused, and the error names what it asks for.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
import threading
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import torch
from accelerate import PartialState

from llamarec.checkpoints.resume.random_state_file import STAND_INS, read_form
from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.entries import entries_below, open_regular, require_regular
from llamarec.checkpoints.storage.file_formats import check_archive
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.checkpoints.storage.layout import PICKLE_SUFFIXES, RNG_PATTERN, TRAINING_ARGS, max_bytes_of
from llamarec.checkpoints.storage.verification import HostileError
from llamarec.errors import CheckpointError

_Allowed = Callable[..., object] | tuple[Callable[..., object], str]
"""A type or function that a pickle may name, or a pair of it and the name in the file."""

# The list of allowed types belongs to the process: a save that is read back in its thread would find it cleared.
_ONE_AT_A_TIME = threading.RLock()

# Plain objects of tensors and numbers that optimizers keep in their state, by module and class.
_PROJECTORS = (
    ("galore_torch.galore_projector", "GaLoreProjector"),
    ("apollo_torch.svd_projector", "GaLoreProjector"),
    ("apollo_torch.random_projector", "GradientProjector"),
)

# Functions of these libraries run code. The classes that their own arguments need are imported already.
_LIBRARIES = ("torch", "numpy", "transformers", "accelerate", "pip", "setuptools")


def load_pickled(
    path: Path,
    *,
    map_location: str | torch.device = "cpu",
    allowed: list[_Allowed] | None = None,
    in_memory: bool = True,
) -> Any:
    """The content of a .bin, .pt or .pth file.

    Args:
        path: The file.
        map_location: As in `torch.load`.
        allowed: Further types that the file may contain.
        in_memory: Otherwise tensors stay in the file, which must not be changed while there are any.

    Raises:
        CheckpointError: the file is missing, damaged, or would execute code.
    """
    return _loaded(path, path, allowed or [], map_location=map_location, mmap=not in_memory)


def unpickled(content: bytes, name: str) -> object:
    """What `load_pickled` would return for a file with this content.

    Args:
        content: As `torch.save` writes it.
        name: Of the file, for messages.

    Raises:
        CheckpointError: as there.
    """
    return _loaded(io.BytesIO(content), Path(name), [])


def _loaded(
    file: Path | io.BytesIO,
    path: Path,
    allowed: list[_Allowed],
    *,
    map_location: str | torch.device = "cpu",
    mmap: bool = False,
) -> Any:
    is_random = RNG_PATTERN.fullmatch(path.name) is not None
    types = [*allowed, *(STAND_INS if is_random else _imported_projectors())]

    try:
        if isinstance(file, Path):
            _check_file(file)
        with (
            _ONE_AT_A_TIME,
            torch.serialization.safe_globals(types),
            warnings.catch_warnings(),
        ):
            # The file is refused or good, so a warning about it is useless.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
        return read_form(content) if is_random else content
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except pickle.UnpicklingError as error:
        raise _hostile(path, _refused(str(error))) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read: {type(error).__name__}", found=str(error).strip().partition("\n")[0]
        ) from error


def _check_file(path: Path) -> None:
    """Raises if reading a file could wait forever, or fill the memory with more than the file has.

    Raises:
        OSError: it is no regular file, or larger than its kind can be.
        ValueError: it is an archive whose parts are larger than it.
    """
    with open_regular(path, max_bytes_of(path.name)) as file:
        if zipfile.is_zipfile(file):
            check_archive(file)


def is_projector(value: object) -> bool:
    """Whether this is an object that an optimizer's state may hold."""
    return (type(value).__module__, type(value).__name__) in _PROJECTORS


def _imported_projectors() -> list[_Allowed]:
    """Those whose library this process has imported: whoever has such an optimizer has."""
    return [getattr(sys.modules[module], name) for module, name in _PROJECTORS if module in sys.modules]


def _hostile(path: Path, found: str, hint: str = "") -> HostileError:
    return HostileError(
        f"{path} is refused: it holds more than tensors and plain values, and loading it could execute code",
        expected="a file that torch.load(weights_only=True) reads",
        found=found,
        hint=hint or "do not load it by other means unless you made it; resume from another checkpoint",
    )


def refuse_hostile(checkpoint: Path, allowed: frozenset[str] = frozenset(), *, is_preview: bool = False) -> None:
    """Scans every pickled file of a checkpoint, including those that a resume does not load; executes nothing.

    Args:
        checkpoint: The folder.
        allowed: 'training_args.bin' (or 'all') if that file, which is never loaded, may hold unknown classes.
        is_preview: Whether that file may hold classes of programs that are not imported, like the user's own.

    Raises:
        CheckpointError: a file asks for more than tensors, plain values and training arguments.
    """
    try:
        paths = [path for path in entries_below(checkpoint) if path.suffix in PICKLE_SUFFIXES]
    except OSError as error:
        raise CheckpointError(f"{checkpoint} cannot be read", found=str(error)) from error

    for path in paths:
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
    """Unsafe names that a file's pickle asks for, read from its instructions without executing them."""
    try:
        _check_file(path)
        if not zipfile.is_zipfile(path):
            # A file from before torch 1.6: small, or not a checkpoint of this package.
            load_pickled(path)
            return []
        types: list[_Allowed] = [*STAND_INS] if RNG_PATTERN.fullmatch(path.name) else []
        with _ONE_AT_A_TIME, torch.serialization.safe_globals(types):
            asked = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise _hostile(path, _refused(str(error))) from error
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}", found=str(error)) from error

    known = {".".join(projector) for projector in _PROJECTORS}
    return [name for name in asked if name not in known]


def _is_of_arguments(name: str) -> bool:
    """Whether a name is an imported class of which training arguments consist."""
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)
    if not isinstance(found, type):
        return False
    return is_dataclass(found) or issubclass(found, Enum | PurePath | torch.device | torch.dtype | PartialState)


def _is_of_unknown_program(name: str) -> bool:
    """Whether a name may belong to the user's own script, which this process has not imported."""
    module, _, attribute = name.rpartition(".")
    if module == "__main__":
        return not hasattr(sys.modules[module], attribute)

    # Pickles use the names that the standard library's modules had in Python 2.
    renamed = {*IMPORT_MAPPING, *(old for old, _ in NAME_MAPPING)}
    known = {*sys.stdlib_module_names, *renamed, *_LIBRARIES}
    return module not in sys.modules and module not in renamed and module.partition(".")[0] not in known


def _refused(text: str) -> str:
    """The name that a file asks for, from torch's message; its advice to load the file anyway is dropped."""
    asked = re.search(r"(?:GLOBAL|function|class) ([\w.]+)", text)
    return f"it asks for {asked[1]}" if asked else "a pickle instruction that none of these needs"


def load_weights(folder: Path) -> dict[str, torch.Tensor] | None:
    """The tensors of an adapter or of an unsharded model in a folder; None if it has another form.

    Raises:
        CheckpointError: the file is damaged or hostile.
    """
    for name in ("adapter_model.safetensors", "adapter_model.bin", "model.safetensors", "pytorch_model.bin"):
        path = folder / name
        if path.is_file():
            return _tensors_in(path)
    return None


def _tensors_in(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_safetensors(path)

    content = load_pickled(path)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path} cannot be read", expected="tensors by name", found=type(content).__name__)
    return dict(content)


def weights_in(folder: Path) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors of a model in a folder, shard by shard; nothing if there is none.

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
                yield _tensors_in(path)
            return


def load_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: the file is missing or does not contain one.
    """
    try:
        return json_shapes.read_object(path)
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
        require_regular(path)
        return dict(load_file(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read", found=str(error)) from error
