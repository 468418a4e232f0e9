"""The run before a restart: its checkpoints stay until new ones replace them, but `latest` skips them.

restarted.json records them. Without it, a restart that is killed before its first save would resume from the run that
the user had given up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from llamarec.checkpoints.storage import durable, json_shapes
from llamarec.checkpoints.storage.entries import kind_of
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import read_manifest
from llamarec.errors import CheckpointError

_UNNUMBERED = -1


@dataclass(frozen=True)
class _Note:
    """The content of restarted.json: the number of each checkpoint's save, by name; -1 without a manifest."""

    before_restart: dict[str, int]


def sequence_of(run: RunFolder, step: int) -> int:
    """Number of a checkpoint's save, from its manifest; -1 without a readable one. Hashes no files."""
    try:
        manifest = read_manifest(run.checkpoint(step))
    except CheckpointError:
        return _UNNUMBERED
    return manifest.sequence if manifest is not None else _UNNUMBERED


def mark_superseded(run: RunFolder, steps: list[int]) -> None:
    """Records, durably, that these checkpoints belong to the previous run.

    Raises:
        OSError: the folder cannot be written.
    """
    before = {run.checkpoint(step).name: sequence_of(run, step) for step in steps}
    durable.replace_file(run.restarted, note_of(before))


def note_of(before_restart: dict[str, int]) -> bytes:
    """Content of restarted.json: the number of each earlier checkpoint's save, by name."""
    return (json.dumps({"before_restart": before_restart}, indent=2) + "\n").encode()


def parse_note(raw: bytes) -> dict[str, int]:
    """What `note_of` made bytes of.

    Raises:
        ShapeError: they are something else.
    """
    return json_shapes.parsed(raw, _Note).before_restart


def clear_superseded(run: RunFolder) -> None:
    """Deletes the record: the user continues the previous run after all."""
    if kind_of(run.restarted) != "nothing":
        durable.remove(run.restarted)
        durable.fsync_folder(run.path)


def is_superseded(run: RunFolder, steps: list[int]) -> dict[int, bool]:
    """Whether each step's checkpoint belongs to the previous run; a new save under the same name does not.

    Raises:
        CheckpointError: restarted.json cannot be read.
    """
    recorded = recorded_in(run)
    names = {step: run.checkpoint(step).name for step in steps}
    return {step: name in recorded and recorded[name] == sequence_of(run, step) for step, name in names.items()}


def recorded_in(run: RunFolder) -> dict[str, int]:
    """The number of each checkpoint's save from before a restart, by name; empty where there was none.

    Raises:
        CheckpointError: restarted.json cannot be read.
    """
    try:
        return json_shapes.read(run.restarted, _Note).before_restart
    except FileNotFoundError:
        return {}
    except (OSError, ShapeError) as error:
        raise CheckpointError(
            f"{run.restarted} cannot be read",
            expected='{"before_restart": {"checkpoint-500": 3}}',
            found=str(error),
            hint="delete the file; 'latest' then means the newest checkpoint of either run",
        ) from error
