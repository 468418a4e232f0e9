"""A mirror's checkpoints as `llamarec checkpoints list` shows them: from manifests and sizes, or from every byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llamarec.checkpoints.backup.stores import MissingError, Store
from llamarec.checkpoints.mirror.inventory import MirroredCheckpoint, inventory_of
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import FileEntry
from llamarec.checkpoints.storage.summary import CheckpointSummary, gather, summary_of
from llamarec.checkpoints.storage.verification import Verdict


def gather_mirror(mirror: Store, *, deep: bool) -> list[CheckpointSummary]:
    """Summaries of the checkpoints in a mirror, by step.

    Args:
        mirror: A folder or an address with copies.
        deep: Whether to read and hash every file.

    Raises:
        UnreachableError: the store does not answer.
    """
    if mirror.is_local:
        return gather(RunFolder(Path(mirror.path)), deep=deep)
    found = [_summary(one, deep=deep) for one in inventory_of(mirror).checkpoints]
    return sorted(found, key=lambda one: one.step)


def _summary(one: MirroredCheckpoint, *, deep: bool) -> CheckpointSummary:
    manifest = one.manifest
    problems = tuple(_problems(one, deep=deep))
    verdict = Verdict(Path(one.name), "damaged" if problems else "good", problems, manifest=manifest)
    summary = summary_of(verdict, deep=deep, num_bytes=manifest.num_bytes)
    return replace(summary, is_superseded=one.is_superseded)


def _problems(one: MirroredCheckpoint, *, deep: bool) -> list[str]:
    """One sentence for each file that is not as the manifest says."""
    sizes = {} if deep else one.store.sizes()
    problems = []
    for name, entry in one.manifest.files.items():
        try:
            found = one.store.entry(name) if deep else FileEntry(sizes[name], entry.sha256)
        except (MissingError, KeyError):
            problems.append(f"{name} is missing")
            continue
        if found.num_bytes != entry.num_bytes:
            problems.append(f"{name} has {found.num_bytes:,} bytes instead of {entry.num_bytes:,}")
        elif found != entry:
            problems.append(f"{name} has changed since the save (SHA-256 differs)")
    return problems
