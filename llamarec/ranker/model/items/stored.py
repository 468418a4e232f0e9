"""The item head on disk.

    extra_state.safetensors      its trained weights, in every checkpoint and beside the best adapter
    item_features.safetensors    the features of the titles, beside them

LoRA's file stays one that plain PEFT reads. The features are stored because another machine would compute them with
other rounding, and a resume would not have the same bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save
from torch import Tensor

from llamarec.checkpoints.resume.safe_load import load_safetensors
from llamarec.checkpoints.storage.layout import EXTRA_STATE
from llamarec.errors import ArtifactError
from llamarec.ranker.model.items.head import ItemHead

ITEM_FEATURES: Final = "item_features.safetensors"
_NAME: Final = "features"
_PREFIX: Final = "base_model.model.item_head."


def features_as_bytes(features_NF: Tensor) -> bytes:
    """Content of `ITEM_FEATURES`."""
    return save({_NAME: features_NF.cpu().contiguous()}, metadata={"format": "pt"})


def stored_features(folder: Path) -> Tensor | None:
    """[N, F] features in a checkpoint; None if it has none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / ITEM_FEATURES
    return load_safetensors(path)[_NAME] if path.is_file() else None


def head_weights(folder: Path) -> dict[str, Tensor]:
    """The trained weights of the head in a checkpoint, by their names in `ItemHead`.

    Raises:
        ArtifactError: the folder has none.
        CheckpointError: the file is damaged.
    """
    path = folder / EXTRA_STATE
    found = load_safetensors(path) if path.is_file() else {}
    weights = {name.removeprefix(_PREFIX): value for name, value in found.items() if name.startswith(_PREFIX)}
    if not weights:
        raise ArtifactError(
            f"{folder}: the weights of the item vectors are missing",
            expected=f"{EXTRA_STATE}, which is saved with every adapter of --readout items",
            hint="copy the whole folder, or resume the training",
        )
    return weights


def head_from(folder: Path, hidden_size: int) -> ItemHead:
    """The trained head in a checkpoint.

    Args:
        folder: A checkpoint, or a run's folder with the best adapter.
        hidden_size: Width of the language model.

    Raises:
        ArtifactError: it is not all there.
        CheckpointError: a file is damaged.
    """
    features_NF, weights = stored_features(folder), head_weights(folder)
    if features_NF is None:
        raise ArtifactError(
            f"{folder}: {ITEM_FEATURES} is missing", hint="copy the whole folder, or resume the training"
        )
    head = ItemHead(features_NF, torch.ones(len(features_NF)), hidden_size)
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtifactError(
            f"{folder}: the item vectors are not those of this model", found=str(error).partition("\n")[2].strip()
        ) from error
    return head
