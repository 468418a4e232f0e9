"""The manifest: written last, it is what makes a folder a checkpoint. Standard library only.

Its format is specified in docs/checkpoint-format.md; `FORMAT` changes when a reader of the old one would err.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Final

from llamarec.checkpoints.storage.layout import MANIFEST
from llamarec.errors import CheckpointError

FORMAT: Final = 1


@dataclass(frozen=True)
class FileEntry:
    """Size and hash of one file."""

    num_bytes: int
    sha256: str


MAX_SESSIONS: Final = 100
"""In a manifest: the first one and the last ones of a run that is started again for ever."""


@dataclass(frozen=True)
class Session:
    """One process that trained: from where to where.

    Attributes:
        started: ISO time, UTC.
        from_step: Step of the checkpoint that it resumed from; 0 at a fresh start.
        resumed_from: Name of that checkpoint, or None.
        host: Machine.
        changes: `name: old -> new` of the hyperparameters that it changed.
        extends: The training had come to its end there, and got a later one: no interruption.
    """

    started: str
    from_step: int
    resumed_from: str | None = None
    host: str = ""
    changes: tuple[str, ...] = ()
    extends: bool = False


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs done, as a fraction.
        position: Where the next sample is; see `position.Position`.
        sequence: Counts the saves of a folder; the newest checkpoint has the highest, whatever its step or the clock.
        reason: Why it was saved: scheduled, best, time, signal, exception or final.
        created: ISO time, UTC.
        run_id: Same for all checkpoints that descend from one start.
        parent: `step` of the checkpoint that this process resumed from, or None.
        metrics: loss, and where known best_metric, best_step, metric_name, last evaluation.
        hyperparameters: Every training argument, and the program's own options.
        given: Those that the user gave on the command line, over all sessions.
        fingerprints: What identifies the run; a resume with others is refused.
        environment: Versions, platform, devices, number of processes.
        sessions: The processes that led here, oldest first.
        files: Every file of the folder but the manifest.
    """

    step: int
    epoch: float
    position: dict[str, Any]
    sequence: int
    reason: str
    created: str
    run_id: str
    parent: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    sessions: tuple[Session, ...] = ()
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Size of the files that it lists."""
        return sum(entry.num_bytes for entry in self.files.values())

    def to_bytes(self) -> bytes:
        """As JSON, with a checksum of itself."""
        content = {"format": FORMAT, **asdict(self)}
        return (json.dumps({**content, "checksum": _checksum(content)}, indent=2, sort_keys=True) + "\n").encode()


def read_manifest(checkpoint: Path, name: str = MANIFEST) -> Manifest | None:
    """The manifest of a folder; None where there is none, as in a plain Trainer's checkpoint.

    Raises:
        CheckpointError: it is damaged, or of a format that this version does not know.
    """
    path = checkpoint / name
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read", found=str(error)) from error
    return parse_manifest(raw, str(path))


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """A manifest from its bytes.

    Args:
        raw: As `Manifest.to_bytes` gives them.
        where: What an error names.

    Raises:
        CheckpointError: it is damaged, lists a file outside, or is of a format that this version does not know.
    """
    try:
        content = json.loads(raw.decode())
        found_format, checksum = content.pop("format"), content.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{where}: damaged", expected="JSON with format and checksum", found=str(error)
        ) from error
    if found_format != FORMAT:
        raise CheckpointError(
            f"{where}: format {found_format}", expected=f"format {FORMAT}", hint="use a newer version of llamarec"
        )
    if checksum != _checksum({"format": found_format, **content}):
        raise CheckpointError(f"{where}: damaged", expected=f"checksum {checksum}", found="other content")
    return _from_content(content, where)


def _from_content(content: dict[str, Any], where: str) -> Manifest:
    try:
        # A later writer of the same format may say more.
        files = {inside(name): FileEntry(**_known(FileEntry, entry)) for name, entry in content["files"].items()}
        sessions = tuple(
            Session(**{**_known(Session, session), "changes": tuple(session.get("changes", ()))})
            for session in content["sessions"]
        )
        return Manifest(**{**_known(Manifest, content), "files": files, "sessions": sessions})
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{where}: does not say what a manifest says", found=str(error)) from error


def _known(cls: type[Any], content: dict[str, Any]) -> dict[str, Any]:
    known = {item.name for item in fields(cls)}
    return {name: value for name, value in content.items() if name in known}


def inside(name: str) -> str:
    """A file's name that stays within the folder; a manifest may come from anywhere.

    Raises:
        CheckpointError: it does not.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", name) or name == MANIFEST:
        raise CheckpointError(f"refused: the manifest lists {name!r}, which is no name inside a checkpoint")
    return name


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
