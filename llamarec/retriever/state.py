"""The training state on disk: one file, replaced atomically, from which a run continues bit for bit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from llamarec.errors import ArtifactError
from llamarec.files import replacing

STATE_FILE: Final = "training_state.pt"


@dataclass
class TrainingState:
    """Everything that decides how training continues.

    Random states are not part of it: order and dropout of an epoch depend on (seed, epoch) alone.

    Attributes:
        identity: Options and data that make this training what it is; others make another one.
        options: All options of the last process.
        epoch: Epochs done.
        model: Current weights.
        optimizer: State dict of the optimizer.
        best_model: Weights of the best epoch.
        best_epoch: Counted from 1; 0 before the first.
        best_recall: Recall@10 on validation of the best epoch.
        bad_epochs: Epochs since the best.
        seconds: Time trained, over all processes.
        history: By epoch: loss and, with validation, recall@10 and ndcg@10.
    """

    identity: dict[str, object]
    epoch: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    best_model: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_recall: float = -1.0
    bad_epochs: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    options: dict[str, object] = field(default_factory=dict)


def save_state(state: TrainingState, folder: Path) -> None:
    """Replaces the state file; a kill at any moment leaves the old one or the new one."""
    # Shallow, unlike `asdict`: tensors are not copied.
    content = {name: getattr(state, name) for name in TrainingState.__dataclass_fields__}

    with replacing(folder / STATE_FILE) as staging, staging.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def load_state(folder: Path, hint: str | None = None) -> TrainingState | None:
    """The state of an earlier run, or None where there is none.

    Args:
        folder: Folder of the state file.
        hint: What to do when the file is damaged; None: start over.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return None

    try:
        return TrainingState(**torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:
        raise ArtifactError(
            f"{path}: cannot be read as a training state",
            found=str(error).partition("\n")[0],
            hint=hint or "add --restart to start over",
        ) from error


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """`name old -> new` for each difference between two identities."""
    return [
        f"{name} {old.get(name)} -> {new.get(name)}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    ]
