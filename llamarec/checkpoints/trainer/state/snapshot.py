"""A step's state copied from memory, to be written while training continues."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Mapping
from copy import copy
from typing import BinaryIO, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from llamarec.checkpoints.resume.safe_load import is_projector
from llamarec.checkpoints.trainer.guards.versions import is_adapter
from llamarec.checkpoints.trainer.state.model_files import WeightsFile, is_native_adapter, weights_files
from llamarec.checkpoints.trainer.state.tensors import bytes_of, copy_of_tensor, whole

T = TypeVar("T")


def copied(value: T) -> T:
    """Tensors copied to the CPU, whole, in new containers; everything else is the same object."""
    return cast(T, _copied(value))


def _copied(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return copy_of_tensor(whole(value), "cpu")
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]

    if type(value) is tuple:
        return tuple(_copied(item) for item in value)

    if not is_projector(value):
        return value

    other = copy(value)
    vars(other).update({name: _copied(item) for name, item in vars(value).items()})
    return other


def without_values(value: object) -> object:
    """The same containers and plain values, with empty tensors."""
    if isinstance(value, torch.Tensor):
        return torch.empty(0, dtype=value.dtype)
    if isinstance(value, dict):
        return {name: without_values(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_values(item) for item in value]

    return tuple(without_values(item) for item in value) if type(value) is tuple else value


def num_bytes_of(value: object) -> int:
    """Size of the tensors in a value."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(num_bytes_of(item) for item in value.values())
    return sum(num_bytes_of(item) for item in value) if isinstance(value, list | tuple) else 0


def pickled(value: object) -> bytes:
    """As `torch.save` writes it, for small things."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def pickling(value: object) -> Callable[[BinaryIO], None]:
    """A writer for `Staging.write_with`."""

    def write(file: BinaryIO) -> None:
        torch.save(value, file)

    return write


def model_state(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """A whole state for `save_pretrained`, in which everything that can change is a copy; None: save the live model.

    Of an adapter the base model's frozen weights are the live tensors, which costs no memory. Of a whole model frozen
    weights are copied too: a callback may change them (an average kept beside), and nothing tells when. Weights that
    are one in memory (tied embeddings) stay one.
    """
    live = model.state_dict(keep_vars=True)
    if not (is_adapter(model) or is_native_adapter(model)):
        if not isinstance(model, PreTrainedModel):
            return {name: _contiguous_copy(value) for name, value in live.items()}
        return _copied_once(live, set(live))

    files = weights_files(model)
    if not _can_be_copied(model, files):
        return None

    # Frozen adapters too: a reference that follows the trained one is moved by a callback.
    written = {name for file in files for name in file.names.values()}
    return _copied_once(live, written | {name for name, value in live.items() if value.requires_grad})


def copies_in(state: Mapping[str, torch.Tensor] | None, model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a `model_state` that are not the live model's own."""
    live = {id(value) for value in model.state_dict(keep_vars=True).values()}
    return {name: value for name, value in (state or {}).items() if id(value) not in live}


def digest_of(value: torch.Tensor) -> bytes:
    """Of a tensor's bytes; empty where it has none."""
    if value.is_meta:
        return b""

    return hashlib.blake2b(bytes_of(value).data, digest_size=16).digest()


def digests_in(model: nn.Module, files: list[WeightsFile]) -> dict[str, bytes]:
    """Digests of the live tensors that weights files hold, by name, where the live model writes them itself."""
    live = model.state_dict(keep_vars=True)
    names = {name for file in files for name in file.names.values()}
    return {name: digest_of(live[name]) for name in names if isinstance(live[name], torch.Tensor)}


def can_be_copied(model: nn.Module) -> bool:
    """Whether a model's files can be written from copies of its tensors."""
    is_whole = not (is_adapter(model) or is_native_adapter(model))
    return is_whole or _can_be_copied(model, weights_files(model))


def _can_be_copied(model: nn.Module, files: list[WeightsFile]) -> bool:
    """Whether an adapter's files depend on tensors alone, and the library takes them from where it is told."""
    is_computed = any(file.computed for file in files)
    # AdaLoRA's ranks are in its configuration; transformers ignores the state that it is given of a quantised model.
    has_ranks = any(hasattr(config, "rank_pattern") and hasattr(config, "target_r") for config in _configs(model))
    ignores_copy = is_native_adapter(model) and getattr(model, "hf_quantizer", None) is not None
    return not (is_computed or has_ranks or ignores_copy)


def _configs(model: nn.Module) -> list[object]:
    configs = getattr(model, "peft_config", {})
    return list(configs.values())


def _copied_once(live: Mapping[str, torch.Tensor], names: Collection[str]) -> dict[str, torch.Tensor]:
    """The same mapping with some of its tensors copied, each once, whatever number of names it has."""
    # In the model's order, not that of a set, which is another one in each process: copies of shards are gathered.
    copies = {id(value): value for name, value in live.items() if name in names}
    copies = {key: _contiguous_copy(value) for key, value in copies.items()}
    return {name: copies.get(id(value), value) for name, value in live.items()}


def _contiguous_copy(value: torch.Tensor) -> torch.Tensor:
    """A copy that every file format takes; extra states that are no tensors stay as they are."""
    return copied(value).contiguous() if isinstance(value, torch.Tensor) else value
