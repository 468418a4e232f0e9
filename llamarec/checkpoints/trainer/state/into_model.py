"""Tensors of weights files put into a model: by the names under which they would be saved, all or none."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from llamarec.checkpoints.storage.layout import EXTRA_STATE
from llamarec.checkpoints.trainer.guards.versions import is_adapter
from llamarec.checkpoints.trainer.state.model_files import WeightsFile, weights_files
from llamarec.checkpoints.trainer.state.tensors import put_into, sharded_like
from llamarec.errors import CheckpointError

ANOTHER_MODEL: Final = "build the model as it was trained, or train the new one in another --output_dir"


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], folder: Path, adapter: str = "") -> None:
    """Puts weights into a model, all of them.

    Args:
        model: With PEFT's adapter of this name, or a plain module.
        weights: What `load_weights` read.
        folder: Where they come from, for messages.
        adapter: Empty for a plain module.

    Raises:
        CheckpointError: they are of another shape, or not those of this model.
    """
    if not adapter:
        load_part(model, weights, folder)
        refuse_other_names(model, weights.keys(), folder)
        return

    file = next(file for file in weights_files(model) if file.adapter == adapter)
    put_adapter(model, weights, folder, file)


def put_adapter(
    model: nn.Module, weights: Mapping[str, Tensor], folder: Path, file: WeightsFile, *, check_only: bool = False
) -> None:
    """Puts an adapter's weights into a model by the names under which they would be saved.

    Args:
        model: PEFT's, or one of transformers with adapters of its own.
        weights: What `load_weights` read.
        folder: Where they come from, for messages.
        file: What belongs to this adapter.
        check_only: Only compare names and shapes.

    Raises:
        CheckpointError: they are of another shape, or not those of this model.
    """
    live = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    # Beside the adapter there may be embedding layers, which PEFT saves where they were resized.
    target_of = {key: file.names.get(key, key) for key in weights if key not in file.computed}
    missing = sorted({*file.names, *file.computed} - weights.keys())
    unexpected = sorted(key for key, name in target_of.items() if name not in live)

    if (missing or unexpected) and not file.computed and is_adapter(model) and not check_only:
        # Written by another version, under other names; PEFT translates them.
        missing, unexpected = _translated(model, weights, folder, file.adapter)
        target_of = {}

    if missing or unexpected:
        raise _other_names(folder, missing, unexpected)

    _refuse_other_shapes({key: (weights[key], live[name]) for key, name in target_of.items()}, folder)
    if check_only:
        return

    with torch.no_grad():
        for key, name in target_of.items():
            put_into(live[name], weights[key])
    if file.computed:
        _put_computed(model, weights, folder, file)


def _translated(
    model: nn.Module, weights: Mapping[str, Tensor], folder: Path, adapter: str
) -> tuple[list[str], list[str]]:
    """Has PEFT load weights; names that are missing from them, and names that the model does not have."""
    from peft import set_peft_model_state_dict

    try:
        loaded: Any = set_peft_model_state_dict(model, dict(weights), adapter_name=adapter)
    except KeyError as error:
        return [str(error.args[0])], []
    except RuntimeError as error:
        raise _of_other_shape(folder, error) from error

    missing = [name for name in loaded.missing_keys if "lora_" in name and f".{adapter}." in name]
    return missing, list(loaded.unexpected_keys)


def _put_computed(model: nn.Module, weights: Mapping[str, Tensor], folder: Path, file: WeightsFile) -> None:
    """Has PEFT load what it computes for a file, and asks whether the same would be saved again."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    try:
        set_peft_model_state_dict(model, dict(weights), adapter_name=file.adapter)
    except RuntimeError as error:
        raise _of_other_shape(folder, error) from error

    with torch.no_grad():
        again = get_peft_model_state_dict(model, adapter_name=file.adapter, save_embedding_layers=False)
    lost = [key for key in file.computed if not torch.equal(again[key].cpu(), weights[key].to(again[key].dtype).cpu())]
    if lost:
        raise CheckpointError(
            f"{folder} holds {lost[0]} as it was computed for the file, not the weights that it was computed from",
            expected=f"{EXTRA_STATE}, which this program's checkpoints have beside such an adapter",
            found="a checkpoint of another program",
            hint="start at step 0, or resume where the checkpoint was written",
        )


# ---- Names and shapes ----


def load_part(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Puts some of a whole model's weights into it.

    Raises:
        CheckpointError: one of them has another shape.
    """
    live = model.state_dict(keep_vars=True)
    weights = {name: sharded_like(live[name], value) if name in live else value for name, value in weights.items()}
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise _of_other_shape(folder, error) from error


def refuse_other_names(model: nn.Module, names: Collection[str], folder: Path) -> None:
    """Refuses the names in a whole model's files if they are not those of the model.

    Raises:
        CheckpointError: says what is missing and what is unknown.
    """
    live = model.state_dict(keep_vars=True)
    there = {id(live[name]) for name in names if name in live}
    missing = [name for name, value in live.items() if name not in names and id(value) not in there]
    missing = [name for name in missing if not _is_ignored(model, name, "on_save", "on_load_missing")]
    unexpected = [name for name in names if name not in live and not _is_ignored(model, name, "on_load_unexpected")]

    tied = set(getattr(model, "_tied_weights_keys", None) or [])
    missing = [name for name in missing if name not in tied | {"lm_head.weight"}]
    if missing or unexpected:
        raise _other_names(folder, missing, unexpected)


def _is_ignored(model: nn.Module, name: str, *kinds: str) -> bool:
    """Whether transformers neither saves nor misses a tensor of this model."""
    patterns = [pattern for kind in kinds for pattern in getattr(model, f"_keys_to_ignore_{kind}", None) or ()]
    return any(re.search(pattern, name) for pattern in patterns)


def _refuse_other_shapes(pairs: Mapping[str, tuple[Tensor, Tensor]], folder: Path) -> None:
    lines = [
        f"size mismatch for {key}: {list(saved.shape)} saved, {list(live.shape)} in this model"
        for key, (saved, live) in pairs.items()
        if saved.shape != live.shape
    ]
    if lines:
        raise _of_other_shape(folder, RuntimeError("\n".join(lines)))


def _of_other_shape(folder: Path, error: RuntimeError) -> CheckpointError:
    lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
    shown = [*lines[:3], *([f"and {len(lines) - 3} more"] if len(lines) > 3 else [])]
    return CheckpointError(
        f"the weights in {folder} have another shape than this model's",
        expected="the model that was trained",
        found=shown or str(error).strip(),
        hint=ANOTHER_MODEL,
    )


def _other_names(folder: Path, missing: list[str], unexpected: list[str]) -> CheckpointError:
    return CheckpointError(
        f"the weights in {folder} are not those of this model",
        expected=f"{len(missing)} more: {', '.join(missing[:3])}" if missing else None,
        found=f"{len(unexpected)} unknown: {', '.join(unexpected[:3])}" if unexpected else None,
        hint=ANOTHER_MODEL,
    )
