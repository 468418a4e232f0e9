"""The checkpoints in a mirror, from their manifests. Reads, never writes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from llamarec.checkpoints.backup.contents import COPYING
from llamarec.checkpoints.backup.stores import MissingError, Store, UnreachableError
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.checkpoints.storage.layout import MANIFEST, RunFolder, step_of
from llamarec.checkpoints.storage.manifest import Manifest, parse_manifest
from llamarec.checkpoints.storage.restart import parse_note
from llamarec.errors import CheckpointError

RESTARTED = RunFolder(Path()).restarted.name


@dataclass(frozen=True)
class MirroredCheckpoint:
    """A copy with a manifest.

    Attributes:
        store: Its folder.
        manifest: What it says of itself.
        raw: The manifest's bytes.
        is_superseded: Whether it is from before a restart.
    """

    store: Store
    manifest: Manifest
    raw: bytes
    is_superseded: bool = False

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.store.name


@dataclass(frozen=True)
class Inventory:
    """What is in a mirror.

    Attributes:
        checkpoints: The newest save first.
        unfinished: Names of folders in which a copy or a deletion was cut off.
        unreadable: One sentence for each folder whose manifest cannot be read.
    """

    checkpoints: tuple[MirroredCheckpoint, ...] = ()
    unfinished: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def of_this_run(self) -> tuple[MirroredCheckpoint, ...]:
        """The checkpoints without those from before a restart."""
        return tuple(one for one in self.checkpoints if not one.is_superseded)

    @property
    def next_sequence(self) -> int:
        """The number of the next save, counted over all saves in the mirror."""
        return 1 + max((one.manifest.sequence for one in self.checkpoints), default=-1)


def inventory_of(mirror: Store) -> Inventory:
    """What is in a mirror.

    Manifests are read by their names, not looked for in listings: a listing may be older than what it lists.

    Raises:
        UnreachableError: the store does not answer.
    """
    found, unfinished, unreadable = [], [], []
    superseded = _superseded_in(mirror)

    for name in mirror.folders():
        if step_of(Path(name)) is None:
            continue
        folder = mirror.below(name)
        try:
            raw = folder.read(MANIFEST)
            manifest = parse_manifest(raw, f"{folder.url}/{MANIFEST}")
        except MissingError:
            # A folder that is empty is still in the listing, and gone from the store.
            if COPYING in folder.names_on_top():
                unfinished.append(name)
            continue
        except UnreachableError:
            raise
        except CheckpointError as error:
            unreadable.append(f"{name}: {error.problem}")
            continue

        is_superseded = superseded.get(name) == manifest.sequence
        found.append(MirroredCheckpoint(folder, manifest, raw, is_superseded))

    found.sort(key=lambda one: (one.manifest.sequence, one.manifest.step), reverse=True)
    return Inventory(tuple(found), tuple(unfinished), tuple(unreadable))


def _superseded_in(mirror: Store) -> dict[str, int]:
    """The number of each checkpoint's save from before a restart, by name."""
    with contextlib.suppress(MissingError, ShapeError):
        return parse_note(mirror.read(RESTARTED))
    return {}
