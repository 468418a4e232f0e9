"""The training state on disk: one file, replaced whole, from which a run goes on bit for bit."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from llamarec.errors import ArtifactError

STATE_FILE: Final = "training_state.pt"


@dataclass
class TrainingState:
    """Everything that decides how training goes on.

    Random numbers are not among it: order and dropout of an epoch depend on (seed, epoch) alone.

    Attributes:
        identity: Options and data that the run is made of.
        options: All of the last process.
        epoch: Epochs done.
        model: Weights now.
        optimizer: Its state dict.
        best_model: Weights of the best epoch.
        best_epoch: Counted from 1; 0 before the first.
        best_recall: Recall@10 on validation of the best epoch.
        bad_epochs: Epochs since the best.
        seconds: Time trained, over all its processes.
        history: Per epoch: loss and, where it is validated, recall@10 and ndcg@10.
    """

    identity: dict[str, Any]
    epoch: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    best_model: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_recall: float = -1.0
    bad_epochs: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def save_state(state: TrainingState, folder: Path) -> None:
    """Replaces the state file; a kill at any moment leaves the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / STATE_FILE
    staging = target.with_name(target.name + ".tmp")
    # Shallow: the tensors are written as they are, not copied first.
    content = {name: getattr(state, name) for name in TrainingState.__dataclass_fields__}
    with staging.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, target)


def load_state(folder: Path, hint: str | None = None) -> TrainingState | None:
    """The state of an earlier run, or None where there is none.

    Args:
        folder: Of the state file.
        hint: What to do if it is damaged; None: train from the beginning.

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
            hint=hint or "add --restart to train from the beginning",
        ) from error


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`name old -> new` for what differs between two identities."""
    return [
        f"{name} {old.get(name)} -> {new.get(name)}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    ]
