"""The content of trainer_state.json, checked when it is read: ours and a plain Trainer's alike. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.json_shapes import Count, ShapeError
from llamarec.checkpoints.storage.layout import TRAINER_STATE
from llamarec.errors import CheckpointError


class _State(TypedDict, total=False):
    """The fields that a resume reads; transformers' `TrainerState` has more."""

    global_step: Count
    epoch: float | None
    max_steps: int | None
    num_train_epochs: float | None
    train_batch_size: Count | None
    best_global_step: Count | None
    best_metric: float | None
    best_model_checkpoint: str | None
    log_history: list[dict[str, Any]]
    total_flos: float
    num_input_tokens_seen: float
    stateful_callbacks: dict[str, object] | None


class _Requests(TypedDict, total=False):
    should_training_stop: bool
    should_epoch_stop: bool
    should_evaluate: bool
    should_save: bool


class _Control(TypedDict, total=False):
    args: _Requests


class _Patience(TypedDict):
    early_stopping_patience: int


class _Counter(TypedDict):
    early_stopping_patience_counter: int


class _EarlyStopping(TypedDict):
    args: _Patience
    attributes: _Counter


class _Callbacks(TypedDict, total=False):
    """States of the callbacks that a resume reads itself."""

    TrainerControl: _Control
    EarlyStoppingCallback: _EarlyStopping | list[_EarlyStopping]


def read_trainer_state(checkpoint: Path) -> dict[str, Any]:
    """The content of a checkpoint's trainer_state.json.

    Raises:
        CheckpointError: it is missing, not JSON, or a field has another type than the Trainer writes.
    """
    path = checkpoint / TRAINER_STATE
    try:
        content = json_shapes.read_object(path)
        known = json_shapes.shaped(content, _State)
        json_shapes.shaped(known.get("stateful_callbacks") or {}, _Callbacks)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (OSError, ShapeError) as error:
        raise CheckpointError(
            f"{path} cannot be read",
            expected="the JSON that a Trainer writes",
            found=str(error),
            hint="resume from another checkpoint (llamarec checkpoints list)",
        ) from error
    return content


def stopped_early(content: dict[str, Any]) -> bool:
    """Whether patience ran out. A stop by any other callback (a time limit, ...) ended with its process.

    Args:
        content: Content as `read_trainer_state` returns it; empty if the file is missing.
    """
    states = content.get("stateful_callbacks") or {}
    stops = bool((states.get("TrainerControl") or {}).get("args", {}).get("should_training_stop"))

    entries = states.get("EarlyStoppingCallback") or []
    entries = entries if isinstance(entries, list) else [entries]
    is_patient = all(
        entry["attributes"]["early_stopping_patience_counter"] < entry["args"]["early_stopping_patience"]
        for entry in entries
    )

    ends_before = int(content.get("global_step", 0)) < int(content.get("max_steps") or 0)
    return stops and not is_patient and ends_before
