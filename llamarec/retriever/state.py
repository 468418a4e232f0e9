"""The training state on disk: one file, replaced atomically, from which a run continues bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.os_errors import naming
from llamarec.errors import ArtifactError

STATE_FILE: Final = "training_state.pt"

_DIGEST_MARK: Final = b"\nllamarec sha256 "
_NUM_DIGITS: Final = 64
_NUM_BEHIND: Final = len(_DIGEST_MARK) + _NUM_DIGITS
_END_OF_ZIP: Final = b"PK\x05\x06" + bytes(18)

_log: Final = logging.getLogger(__name__)


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

    @property
    def seconds_to_best(self) -> float:
        """About the time that the epochs up to the best one took; another training of as many takes as long."""
        return self.seconds / max(self.epoch, 1) * self.best_epoch


def save_state(state: TrainingState, folder: Path) -> None:
    """Replaces the state file; a kill at any moment leaves the old one or the new one."""
    # Shallow, unlike `asdict`: tensors are not copied.
    content = {name: getattr(state, name) for name in TrainingState.__dataclass_fields__}
    file = BytesIO()
    torch.save(content, file)

    with naming(folder / STATE_FILE):
        durable.make_folders(folder)
        durable.replace_file(folder / STATE_FILE, _with_digest(file.getvalue()))


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
        content = _checked(path.read_bytes(), path)
        return TrainingState(**torch.load(BytesIO(content), weights_only=True, map_location="cpu"))
    except Exception as error:
        raise ArtifactError(
            f"{path}: cannot be read as a training state",
            found=str(error).partition("\n")[0],
            hint=hint or "add --restart to start over",
        ) from error


def _with_digest(content: bytes) -> bytes:
    """The file with its own SHA-256 behind it: torch does not check the checksums of its format."""
    return content + _DIGEST_MARK + durable.sha256_of_bytes(content).encode()


def _checked(content: bytes, path: Path) -> bytes:
    """The file without its digest.

    Raises:
        ValueError: it has changed since it was written.
    """
    body, mark, digest = content[:-_NUM_BEHIND], content[-_NUM_BEHIND:-_NUM_DIGITS], content[-_NUM_DIGITS:]
    if mark == _DIGEST_MARK and digest == durable.sha256_of_bytes(body).encode():
        return body

    # A file of an earlier version ends with its table of contents, which has no comment.
    if content[-len(_END_OF_ZIP) :][:4] == _END_OF_ZIP[:4] and content.endswith(b"\0\0"):
        _log.warning("%s: written by an earlier version, without a hash; it is not verified", path)
        return content
    raise ValueError("changed since it was written (SHA-256 differs)")


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """`name old -> new` for each difference between two identities."""
    return [
        f"{name} {old.get(name)} -> {new.get(name)}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    ]
