"""The run before a restart: its checkpoints stay until new ones replace them, but `latest` does not mean them.

Without a note of that, a restart that is killed before its first save would be "resumed" from the run that the user
had turned away from. Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from llamarec.checkpoints.storage import durable, shapes
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import read_manifest
from llamarec.checkpoints.storage.shapes import ShapeError
from llamarec.errors import CheckpointError

_UNNUMBERED = -1


@dataclass(frozen=True)
class _Note:
    """The content of restarted.json: number of the save by name of the checkpoint, -1 without a manifest."""

    before_restart: dict[str, int]


def sequence_of(run: RunFolder, step: int) -> int:
    """Number of the save, as its manifest says; -1 without a readable one. Nothing is hashed."""
    try:
        manifest = read_manifest(run.checkpoint(step))
    except CheckpointError:
        return _UNNUMBERED
    return manifest.sequence if manifest is not None else _UNNUMBERED


def mark_superseded(run: RunFolder, steps: list[int]) -> None:
    """Notes, durably, that these checkpoints are of the run before.

    Raises:
        OSError: the folder cannot be written.
    """
    content = {"before_restart": {run.checkpoint(step).name: sequence_of(run, step) for step in steps}}
    durable.replace_file(run.restarted, (json.dumps(content, indent=2) + "\n").encode())


def clear_superseded(run: RunFolder) -> None:
    """Forgets the note: the user goes on with the run before, after all."""
    if run.restarted.is_file():
        durable.unlink(run.restarted)
        durable.fsync_folder(run.path)


def is_superseded(run: RunFolder, steps: list[int]) -> dict[int, bool]:
    """For each step whether its checkpoint is of the run before; one that was saved anew under its name is not.

    Raises:
        CheckpointError: the note cannot be read.
    """
    noted = _noted(run)
    return {
        step: f"checkpoint-{step}" in noted and noted[f"checkpoint-{step}"] == sequence_of(run, step) for step in steps
    }


def _noted(run: RunFolder) -> dict[str, int]:
    try:
        return shapes.read(run.restarted, _Note).before_restart
    except FileNotFoundError:
        return {}
    except (OSError, ShapeError) as error:
        raise CheckpointError(
            f"{run.restarted} cannot be read",
            expected='{"before_restart": {"checkpoint-500": 3}}',
            found=str(error),
            hint="delete the file: then 'latest' means the newest checkpoint again, of whichever run",
        ) from error
