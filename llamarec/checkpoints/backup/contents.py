"""Step, files and manifest of a checkpoint in any store: the reading half of `backup`. Trusts nothing in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamarec.checkpoints.backup.stores import Store
from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.entries import described
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.checkpoints.storage.layout import MANIFEST, TRAINER_STATE, step_of
from llamarec.checkpoints.storage.manifest import FileEntry, Manifest, inside, parse_manifest
from llamarec.errors import CheckpointError

COPYING: Final = ".copying"
"""A file that marks an unfinished copy in a store that cannot rename."""


@dataclass(frozen=True)
class Content:
    """A checkpoint's step, files and manifest.

    Attributes:
        step: Optimizer steps done.
        files: All files except the manifest, by relative path.
        manifest: Bytes of the manifest; None for a plain Trainer's checkpoint, whose files are hashed in their store.
    """

    step: int
    files: dict[str, FileEntry]
    manifest: bytes | None

    @property
    def num_bytes(self) -> int:
        """Size of the files."""
        return sum(entry.num_bytes for entry in self.files.values())


@dataclass(frozen=True)
class _Claim:
    """The fields of a manifest that identify its checkpoint."""

    step: int
    run_id: str
    created: str


def content_of(source: Store) -> Content:
    """Content of the checkpoint in a store, from its manifest if it has one.

    Raises:
        CheckpointError: there is no checkpoint, or its manifest is damaged or hostile.
    """
    names = source.names_on_top()
    step = step_of(Path(source.name))

    if MANIFEST not in names:
        if step is None or TRAINER_STATE not in names or COPYING in names:
            unfinished = "an unfinished copy" if COPYING in names else f"{len(names)} files"
            raise CheckpointError(
                f"{source.url} is not a checkpoint", expected=f"a folder with {MANIFEST}", found=unfinished
            )

        if source.links():
            # Nobody has said that what they lead to belongs to the checkpoint: it may be a file of the reader's own.
            raise CheckpointError(
                f"{source.url} is not copied: {source.links()[0]} is {described(Path(source.path, source.links()[0]))}",
                expected="files and folders only, since nothing names what belongs to this checkpoint",
                found=source.links()[:5],
                hint="put a copy of the file in its place, or remove it",
            )
        # The state is copied last, as a manifest is: a folder without it does not count as a checkpoint.
        ordered = sorted(source.names(), key=lambda name: (name == TRAINER_STATE, name))
        return Content(step, {name: source.entry(name) for name in map(inside, ordered)}, None)

    raw = source.read(MANIFEST)
    manifest = _parsed(raw, source)
    if step is not None and step != manifest.step:
        raise CheckpointError(f"{source.url}: the manifest says step {manifest.step}, the folder's name {source.name}")
    return Content(manifest.step, {inside(name): entry for name, entry in manifest.files.items()}, raw)


def one_of(store: Store, say_passed_over: Callable[[str], object] | None = None) -> Store:
    """The store itself if it is a checkpoint; otherwise the newest finished checkpoint in it.

    Args:
        store: A checkpoint, or a folder of several.
        say_passed_over: Told of each one whose manifest cannot be read.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    if step_of(Path(store.name)) is not None or {MANIFEST, TRAINER_STATE} & store.names_on_top():
        if not store.names_on_top():
            raise CheckpointError(f"nothing found in {store.url}", expected="a folder checkpoint-{step}")
        return store

    # (number of the save, step) by name; a plain Trainer's checkpoint has no number.
    ages: dict[str, tuple[int, int]] = {}
    unreadable: list[str] = []
    for name in store.folders():
        step = step_of(Path(name))
        names = store.below(name).names_on_top() if step is not None else set()
        if step is not None and MANIFEST in names:
            try:
                ages[name] = (_parsed(store.below(name).read(MANIFEST), store.below(name)).sequence, step)
            except CheckpointError as error:
                unreadable.append(f"{name}: {error.problem}")
        elif step is not None and COPYING not in names:
            ages[name] = (-1, step)

    if not ages:
        found = unreadable or None
        raise CheckpointError(f"no checkpoint in {store.url}", expected="a folder checkpoint-{step}", found=found)
    if say_passed_over is not None:
        for text in unreadable:
            say_passed_over(text)
    return store.below(max(ages, key=lambda name: ages[name]))


def _parsed(raw: bytes, source: Store) -> Manifest:
    return parse_manifest(raw, f"{source.url}/{MANIFEST}")


def claim(manifest: bytes | None) -> str:
    """Step, run and time that a manifest names, in a few words."""
    if manifest is None:
        return "files without a manifest"
    try:
        claimed = json_shapes.parsed(manifest, _Claim)
    except ShapeError:
        return "a damaged manifest"
    return f"step {claimed.step} of run {claimed.run_id}, saved {claimed.created[:19]} UTC"
