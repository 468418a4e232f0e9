"""The best model in the run's folder itself: staged, moved file by file, recovered after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.entries import entries_below, kind_of, not_a_folder
from llamarec.checkpoints.storage.layout import BEST_MANIFEST, RunFolder, is_own_name
from llamarec.checkpoints.storage.manifest import Manifest, read_manifest
from llamarec.checkpoints.storage.publish import Staging, matches, staged
from llamarec.errors import CheckpointError


def publish_best(run: RunFolder, manifest: Manifest, fill: Callable[[Staging], None]) -> None:
    """Writes the best model into the run's folder itself.

    The folder cannot be renamed because it contains the checkpoints. So the files are staged with their manifest; once
    that is complete, `recover` finishes a move that a kill interrupts. Each file is replaced whole, and the files fit
    together between any two renames, because the configuration does not change within a run.
    """
    # An interrupted move leaves files that exist nowhere else.
    recover_best(run)

    with staged(run.best_staging) as staging:
        fill(staging)
        staging.adopt()
        complete = replace(manifest, files=dict(sorted(staging.files.items())))
        staging.finish(BEST_MANIFEST, complete.to_bytes())
        durable.fsync_folder(run.path)
    _move_best(run)


def _move_best(run: RunFolder) -> None:
    staging = run.best_staging
    stale = _only_in_old_best(run)
    for path in [path for path in sorted(staging.iterdir()) if path.name != BEST_MANIFEST]:
        target = run.path / path.name
        if kind_of(path) == "folder" and kind_of(target) == "folder":
            durable.remove(target)
        durable.rename(path, target)
    for name in stale:
        # Weights in another format: a reader could not tell which file counts.
        durable.remove(run.path / name)
    durable.fsync_folder(run.path)

    # Last: the move is unfinished as long as best.json is in the staging folder.
    durable.rename(staging / BEST_MANIFEST, run.path / BEST_MANIFEST)
    durable.fsync_folder(run.path)
    durable.remove(staging)


def _only_in_old_best(run: RunFolder) -> list[str]:
    try:
        old, new = read_best(run.path), read_best(run.best_staging)
    except CheckpointError:
        return []
    return sorted(old.files.keys() - new.files.keys()) if old and new else []


def recover_best(run: RunFolder) -> list[str]:
    """Finishes or removes a best model that a killed save left; one sentence for each thing done."""
    staging = run.best_staging
    what = not_a_folder(staging)
    if what:
        is_there = kind_of(staging) != "nothing"
        durable.remove(staging)
        return [f"{staging.name}: cleared; {what}"] if is_there else []

    if kind_of(staging / BEST_MANIFEST) == "file":
        try:
            manifest = read_best(staging)
        except CheckpointError:
            manifest = None
        # Some files may have been moved into the run's folder already.
        if (
            manifest
            and _may_be_moved(staging, manifest)
            and all(
                matches(staging / name, entry) or matches(run.path / name, entry)
                for name, entry in manifest.files.items()
            )
        ):
            _move_best(run)
            return [f"best model of step {manifest.step}: finished; its save was killed"]

    durable.remove(staging)
    return ["best model: an unfinished save was cleared"]


def _may_be_moved(staging: Path, manifest: Manifest) -> bool:
    """Whether a staged best model consists of the files in its manifest and nothing else, nor of a run's own names.

    A folder from elsewhere may have been made to look like one.
    """
    names = {PurePosixPath(name).parts[0] for name in manifest.files}
    there = {path.name for path in staging.iterdir()} - {BEST_MANIFEST}
    is_plain = all(kind_of(path) in ("file", "folder") for path in entries_below(staging))
    return there <= names and is_plain and not any(map(is_own_name, names))


def read_best(folder: Path) -> Manifest | None:
    """The manifest of the best model in a run's folder; None if there is none.

    Raises:
        CheckpointError: the manifest is damaged.
    """
    return read_manifest(folder, BEST_MANIFEST)
