"""What a checkpoint consists of, wherever it lies: the reading half of `backup`. Nothing in it is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamarec.checkpoints.backup.stores import Store
from llamarec.checkpoints.storage import shapes
from llamarec.checkpoints.storage.layout import MANIFEST, TRAINER_STATE, step_of
from llamarec.checkpoints.storage.manifest import FileEntry, Manifest, inside, parse_manifest
from llamarec.checkpoints.storage.shapes import ShapeError
from llamarec.errors import CheckpointError

COPYING: Final = ".copying"  # there while a copy is made where nothing can be renamed


@dataclass(frozen=True)
class Content:
    """What a checkpoint consists of.

    Attributes:
        step: Optimizer steps.
        files: All but the manifest.
        manifest: Its bytes; None in a plain Trainer's checkpoint, whose files are hashed where they lie.
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
    step: int
    run_id: str
    created: str


def content_of(source: Store) -> Content:
    """What lies at a checkpoint's place, according to its manifest where it has one.

    Raises:
        CheckpointError: no checkpoint is there, or one whose manifest is damaged or hostile.
    """
    names = source.names()
    step = step_of(Path(source.name))
    if MANIFEST not in names:
        if step is None or TRAINER_STATE not in names or COPYING in names:
            unfinished = "a copy that was not finished" if COPYING in names else f"{len(names)} files"
            raise CheckpointError(
                f"{source.url} is no checkpoint", expected=f"a folder with {MANIFEST}", found=unfinished
            )
        # The state goes last, as the manifest does: without it nothing is taken for a checkpoint.
        ordered = sorted(names, key=lambda name: (name == TRAINER_STATE, name))
        return Content(step, {name: source.entry(name) for name in map(inside, ordered)}, None)
    raw = source.read(MANIFEST)
    manifest = _parsed(raw, source)
    if step is not None and step != manifest.step:
        raise CheckpointError(f"{source.url}: its manifest is of step {manifest.step}, its name is {source.name}")
    return Content(manifest.step, {inside(name): entry for name, entry in manifest.files.items()}, raw)


def one_of(store: Store) -> Store:
    """The store itself if it is a checkpoint; else the newest finished checkpoint in it.

    Raises:
        CheckpointError: there is none.
    """
    if step_of(Path(store.name)) is not None or {MANIFEST, TRAINER_STATE} & set(store.names()):
        if not store.names():
            raise CheckpointError(f"nothing is there: {store.url}", expected="a folder checkpoint-{step}")
        return store
    ages: dict[str, tuple[int, int]] = {}
    for name in store.folders():
        step = step_of(Path(name))
        names = store.below(name).names() if step is not None else []
        if step is not None and MANIFEST in names:
            ages[name] = (_parsed(store.below(name).read(MANIFEST), store.below(name)).sequence, step)
        elif step is not None and COPYING not in names:
            ages[name] = (-1, step)
    if not ages:
        raise CheckpointError(f"no checkpoint in {store.url}", expected="a folder checkpoint-{step}")
    return store.below(max(ages, key=lambda name: ages[name]))


def _parsed(raw: bytes, source: Store) -> Manifest:
    return parse_manifest(raw, f"{source.url}/{MANIFEST}")


def claim(manifest: bytes | None) -> str:
    """What a manifest says that it is, in a few words."""
    if manifest is None:
        return "files without a manifest"
    try:
        claimed = shapes.parsed(manifest, _Claim)
    except ShapeError:
        return "a damaged manifest"
    return f"step {claimed.step} of run {claimed.run_id}, saved {claimed.created[:19]} UTC"
