"""The manifest: written last, it makes a folder a checkpoint. Imports no torch.

docs/checkpoint-format.md specifies it. `FORMAT` is raised if a reader of the old format would misread the new one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, NotRequired, TypedDict

from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.entries import described, kind_of, read_bytes
from llamarec.checkpoints.storage.json_shapes import Count, ShapeError
from llamarec.checkpoints.storage.layout import MANIFEST, max_bytes_of
from llamarec.errors import CheckpointError

FORMAT: Final = 1


@dataclass(frozen=True)
class FileEntry:
    """Size and hash of one file."""

    num_bytes: Count
    sha256: str


MAX_SESSIONS: Final = 100
"""Sessions in a manifest: the first and the latest ones, so that it stays short in a run that is resumed forever."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """One process that trained: where it started and what it changed.

    Attributes:
        started: ISO time, UTC.
        from_step: Step of the checkpoint that it resumed; 0 for a fresh start.
        resumed_from: Name of that checkpoint, or None.
        host: Machine name.
        changes: Hyperparameters that it changed, as `name: old -> new`.
        extends: Whether it extended a finished training, which is not an interruption.
    """

    started: str
    from_step: Count
    resumed_from: str | None = None
    host: str = ""
    changes: tuple[str, ...] = ()
    extends: bool = False


class _Metrics(TypedDict, total=False):
    """The entries of `Manifest.metrics` that the program reads."""

    loss: float | None
    best_metric: float | None
    best_step: Count | None
    metric_name: str | None
    evaluation: dict[str, Any] | None


class _Required(TypedDict):
    """Fields that every manifest on disk has, although `Manifest` has defaults for them."""

    files: dict[str, Any]
    sessions: list[Any]
    metrics: NotRequired[_Metrics]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A checkpoint's description of itself.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs done, as a fraction.
        position: The next sample; see `position.Position`.
        sequence: Number of the save in its folder. The newest checkpoint has the highest number, whatever its step or
            the clock.
        reason: Reason of the save: scheduled, best, time, signal, exception or final.
        created: ISO time, UTC.
        run_id: Identifier shared by all checkpoints that descend from one start.
        parent: `step` of the checkpoint that this process resumed, or None.
        metrics: loss and, if known, best_metric, best_step, metric_name and the last evaluation.
        hyperparameters: Every training argument, and the program's own options.
        given: Hyperparameters that the user gave on the command line, over all sessions.
        fingerprints: Values that identify the run; a resume with other values is refused.
        environment: Versions, platform, devices, number of processes.
        sessions: The processes that led here, oldest first.
        files: Every file of the folder except the manifest.
    """

    step: Count
    epoch: float
    position: dict[str, Any]
    sequence: Count
    reason: str
    created: str
    run_id: str
    parent: Count | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    sessions: tuple[Session, ...] = ()
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Total size of the listed files."""
        return sum(entry.num_bytes for entry in self.files.values())

    @property
    def best_step(self) -> int | None:
        """Step of the best model so far; None if nothing was validated."""
        step: int | None = self.metrics.get("best_step")
        return step

    def to_bytes(self) -> bytes:
        """The manifest as JSON, with its own checksum."""
        return sealed(asdict(self))


def read_manifest(checkpoint: Path, name: str = MANIFEST) -> Manifest | None:
    """The manifest of a folder; None if there is none, as in a plain Trainer's checkpoint.

    Raises:
        CheckpointError: it is damaged, or its format is unknown to this version.
    """
    path = checkpoint / name
    try:
        raw = read_bytes(path, max_bytes_of(name))
    except FileNotFoundError as error:
        if kind_of(path) == "nothing":
            return None
        raise CheckpointError(f"{path}: cannot be read", found=described(path)) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read", found=str(error)) from error
    return parse_manifest(raw, str(path))


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """A manifest parsed from its bytes.

    Args:
        raw: Bytes as `Manifest.to_bytes` returns them.
        where: Path or address for error messages.

    Raises:
        CheckpointError: it is damaged, lists a file outside the folder, or its format is unknown to this version.
    """
    return _from_content(unsealed(raw, where), where)


def sealed(values: Mapping[str, Any]) -> bytes:
    """Values as JSON, with the format and their own checksum."""
    content = {"format": FORMAT, **values}
    return (json.dumps({**content, "checksum": _checksum(content)}, indent=2, sort_keys=True) + "\n").encode()


def unsealed(raw: bytes, where: str) -> dict[str, Any]:
    """What `sealed` made JSON of.

    Args:
        raw: Its bytes.
        where: Path or address for error messages.

    Raises:
        CheckpointError: it is damaged, or its format is unknown to this version.
    """
    try:
        content = json_shapes.parsed(raw, dict[str, Any])
        found_format, checksum = content.pop("format"), content.pop("checksum")
    except (ShapeError, KeyError) as error:
        raise CheckpointError(
            f"{where}: damaged", expected="JSON with format and checksum", found=str(error)
        ) from error

    if found_format != FORMAT:
        raise CheckpointError(
            f"{where}: format {found_format}", expected=f"format {FORMAT}", hint="use a newer version of llamarec"
        )
    if checksum != _checksum({"format": found_format, **content}):
        raise CheckpointError(f"{where}: damaged", expected=f"checksum {checksum}", found="other content")
    return content


def _from_content(content: dict[str, Any], where: str) -> Manifest:
    try:
        manifest = json_shapes.shaped(content, Manifest)
        json_shapes.shaped(content, _Required)
    except ShapeError as error:
        raise CheckpointError(
            f"{where}: not a valid manifest",
            found=str(error),
            hint=["restore the checkpoint from a backup: llamarec checkpoints restore", "or use another checkpoint"],
        ) from error

    for name in manifest.files:
        inside(name)
    return manifest


def inside(name: str) -> str:
    """A listed file's name, checked to stay within the folder, because a manifest may come from anywhere.

    Raises:
        CheckpointError: the name leaves the folder.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", name) or name == MANIFEST:
        raise CheckpointError(f"refused: the manifest lists {name!r}, which is not a name inside a checkpoint")
    return name


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
