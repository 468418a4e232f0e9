"""Is a folder a checkpoint that can be resumed? Sizes and hashes against the manifest. Standard library only.

A plain Trainer's checkpoint has no manifest; there the files that a resume needs are looked for, and the checksums
inside their own formats (zip, JSON, the header of safetensors) are all that can be verified.
"""

from __future__ import annotations

import json
import re
import struct
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from llamarec.checkpoints.storage import durable, shapes
from llamarec.checkpoints.storage.layout import (
    ADAPTER_CONFIG,
    BEST_MANIFEST,
    EXTRA_STATE,
    MANIFEST,
    OPTIMIZER,
    RNG,
    RNG_PATTERN,
    SCALER,
    SCHEDULER,
    STATE_NAME,
    TRAINER_STATE,
    WEIGHTS,
    step_of,
    weight_files,
)
from llamarec.checkpoints.storage.manifest import FileEntry, Manifest, read_manifest
from llamarec.checkpoints.storage.shapes import ShapeError
from llamarec.errors import CheckpointError

CheckpointHealth = Literal["good", "incomplete", "damaged", "unverified"]

# What a resume loses without each file.
PARTS: Final[dict[str, str]] = {
    "weights": "the trained weights",
    TRAINER_STATE: "the step, the position in the data, the history and the best metric",
    OPTIMIZER: "the optimizer's moments",
    SCHEDULER: "the position in the learning-rate schedule",
    RNG: "the random states (dropout goes another way)",
}
_OPTIONAL: Final = (TRAINER_STATE, OPTIMIZER, SCHEDULER, SCALER, RNG)
_IS_MISSING: Final = " is missing"
# Without these there is nothing to go on from, whatever the user allows.
ESSENTIAL: Final = ("weights",)
_HEADER_BYTES: Final = struct.Struct("<Q")


@dataclass(frozen=True)
class _Step:
    step: int


@dataclass(frozen=True)
class _Entry:
    attributes: _Step


@dataclass(frozen=True)
class _TrainerState:
    global_step: int
    stateful_callbacks: dict[str, object]


Marks = dict[str, tuple[int, int, int, int]]
"""Size, inode, time of the last change of content and of status (ns) of every file below a folder, by relative path."""

# File systems stamp times with ticks: what was written this short a time ago can change without another stamp.
_TICK_NS: Final = 2 * 10**9


@dataclass(frozen=True)
class Verdict:
    """What verification found.

    Attributes:
        path: The folder.
        health: good (hashes match), unverified (complete, but no manifest to hash against), incomplete (parts are
            missing and none is damaged) or damaged.
        problems: One sentence each, naming the file.
        missing: Parts of a resume that are not there; keys of `PARTS`.
        manifest: Where there is a readable one.
        seconds: Time that the check took.
        marks: The files as they were before they were hashed; None where they were not, or changed a moment before.
    """

    path: Path
    health: CheckpointHealth
    problems: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    manifest: Manifest | None = field(default=None, repr=False)
    seconds: float = 0.0
    marks: Marks | None = field(default=None, repr=False)

    @property
    def is_resumable(self) -> bool:
        """Whether a resume from here loses nothing."""
        return self.health in ("good", "unverified")

    @property
    def is_partly_there(self) -> bool:
        """Whether nothing is wrong but that parts are missing that training can go on without."""
        missing = [text.removesuffix(_IS_MISSING) for text in self.problems if text.endswith(_IS_MISSING)]
        can_do_without = all(name in _OPTIONAL or RNG_PATTERN.fullmatch(name) for name in missing)
        return not self.is_resumable and len(missing) == len(self.problems) and can_do_without

    @property
    def reason(self) -> str:
        """The problems in one line."""
        return "; ".join(self.problems) or self.health


def verify(checkpoint: Path, *, deep: bool = True) -> Verdict:
    """Checks a checkpoint's folder.

    Args:
        checkpoint: The folder.
        deep: Hash the files; otherwise only look at names and sizes.
    """
    started = time.perf_counter()
    if not checkpoint.is_dir():
        return Verdict(checkpoint, "damaged", (f"{checkpoint} is not a folder",))
    # Before the files are hashed: a later change is one that the hashes do not know.
    marks = _marks_of(checkpoint) if deep else None

    try:
        manifest = read_manifest(checkpoint)
    except CheckpointError as error:
        text = str(error).replace("\n", " ")
        return Verdict(checkpoint, "damaged", (text,), seconds=time.perf_counter() - started)
    missing = tuple(_missing_parts(checkpoint))
    damage = _against(checkpoint, manifest, deep) if manifest else _without_manifest(checkpoint, deep)
    absent = [f"{_said(part)}{_IS_MISSING}" for part in missing if not any(part in text for text in damage)]
    problems = damage + absent
    health: CheckpointHealth = "unverified" if manifest is None else "good"
    if problems:
        # A manifest that lists no optimizer is whole: it was saved so (save_only_model).
        health = "damaged" if damage else "incomplete"
    return Verdict(checkpoint, health, tuple(problems), missing, manifest, time.perf_counter() - started, marks)


def verify_again(known: Verdict) -> Verdict:
    """Checks a checkpoint whose files were hashed before; hashes them again only where a file has changed since.

    Args:
        known: What `verify` found earlier in this process.
    """
    if known.marks is not None and _marks_of(known.path) == known.marks:
        return known
    return verify(known.path)


def _marks_of(checkpoint: Path) -> Marks | None:
    """The marks of a checkpoint's files; None where a file has only just changed or cannot be looked at."""
    newest = time.time_ns() - _TICK_NS
    marks: Marks = {}

    try:
        for path in checkpoint.rglob("*"):
            if path.is_dir():
                continue
            stat = path.stat()
            if max(stat.st_mtime_ns, stat.st_ctime_ns) > newest:
                return None
            name = path.relative_to(checkpoint).as_posix()
            marks[name] = (stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
    except OSError:
        return None
    return marks


def verify_best(folder: Path, *, deep: bool = True) -> Verdict:
    """Checks the best model in a run's folder against its manifest.

    Args:
        folder: Of the run; one with best.json.
        deep: Hash the files; otherwise only look at names and sizes.
    """
    started = time.perf_counter()
    try:
        manifest = read_manifest(folder, BEST_MANIFEST)
    except CheckpointError as error:
        return Verdict(folder, "damaged", (str(error).replace("\n", " "),))
    files = manifest.files if manifest is not None else {}
    problems = [text for name, entry in files.items() if (text := _problem(folder, name, entry, deep))]
    health: CheckpointHealth = "damaged" if problems or manifest is None else "good"
    return Verdict(folder, health, tuple(problems), (), manifest, time.perf_counter() - started)


def _said(part: str) -> str:
    return "a file with weights (adapter_model.bin, ...)" if part == "weights" else part


def _missing_parts(checkpoint: Path) -> list[str]:
    there = {path.name for path in checkpoint.iterdir() if path.is_file()}
    weights = bool(weight_files(checkpoint)) or any(
        weight_files(path) for path in checkpoint.iterdir() if path.is_dir()
    )
    missing = [] if weights else ["weights"]
    missing += [name for name in (TRAINER_STATE, OPTIMIZER, SCHEDULER) if name not in there]
    if not any(RNG_PATTERN.fullmatch(name) for name in there):
        missing.append(RNG)
    return missing


def _against(checkpoint: Path, manifest: Manifest, deep: bool) -> list[str]:
    problems = []
    if manifest.step != (step_of(checkpoint) if step_of(checkpoint) is not None else manifest.step):
        problems.append(f"{MANIFEST} is of step {manifest.step}, the folder's name says {checkpoint.name}")
    # Any other file may lie there; one that a resume would read may not.
    there = {path.name for path in checkpoint.iterdir() if path.is_file()} - manifest.files.keys()
    problems += [f"{name} was not saved with this checkpoint" for name in sorted(there) if _is_read(name)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        checked = pool.map(lambda item: _problem(checkpoint, item[0], item[1], deep), manifest.files.items())
        problems += [text for text in checked if text]
    return problems


def _is_read(name: str) -> bool:
    return name in (*WEIGHTS, ADAPTER_CONFIG, EXTRA_STATE, TRAINER_STATE, OPTIMIZER, SCHEDULER, SCALER) or bool(
        RNG_PATTERN.fullmatch(name)
    )


def _problem(checkpoint: Path, name: str, entry: FileEntry, deep: bool) -> str:
    """What is wrong with a file, or an empty text."""
    path = checkpoint / name
    try:
        size = path.stat().st_size
        if size != entry.num_bytes:
            return f"{name} has {size:,} bytes instead of {entry.num_bytes:,}"
        if deep and durable.sha256_of(path) != entry.sha256:
            return f"{name} has another content than was saved (SHA-256 differs)"
    except FileNotFoundError:
        return f"{name}{_IS_MISSING}"
    except OSError as error:
        return f"{name} cannot be read: {error}"
    return ""


def _without_manifest(checkpoint: Path, deep: bool) -> list[str]:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    damage = [text for path in files if (text := _damage(path, deep))]
    if was_ours(checkpoint / TRAINER_STATE):
        damage.insert(0, f"{MANIFEST} is missing (it was saved with one)")
    return damage


def was_ours(trainer_state: Path) -> bool:
    """Whether a trainer state was written by us, at its very step: then a manifest belongs beside it.

    A plain Trainer that resumes our checkpoint carries our entry along, with the step at which it took over.
    """
    try:
        state = shapes.read(trainer_state, _TrainerState)
        entry = shapes.shaped(state.stateful_callbacks.get(STATE_NAME), _Entry)
    except (OSError, ShapeError):
        return False
    return entry.attributes.step == state.global_step


def _damage(path: Path, deep: bool) -> str:
    """What a file's own format says about it; an empty text for what cannot be told."""
    try:
        if path.stat().st_size == 0:
            return f"{path.name} is empty"
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            _check_safetensors(path)
        elif path.suffix in (".bin", ".pt", ".pth") and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip() if deep else None
            if bad:
                return f"{path.name} is damaged at {bad} (checksum differs)"
        elif path.suffix in (".bin", ".pt", ".pth") and not _is_old_pickle(path):
            return f"{path.name} is cut off or no file of torch"
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        return f"{path.name} is damaged: {error}"
    except Exception as error:
        return f"{path.name} is damaged: {type(error).__name__}: {error}"
    return ""


def _is_old_pickle(path: Path) -> bool:
    """Before 1.6 torch wrote plain pickles, which begin with their protocol."""
    with path.open("rb") as file:
        return re.match(rb"\x80[\x02-\x05]", file.read(2)) is not None


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        (header_bytes,) = _HEADER_BYTES.unpack(file.read(_HEADER_BYTES.size))
        if header_bytes > size - _HEADER_BYTES.size:
            raise ValueError("cut off in its header")
        header = json.loads(file.read(header_bytes))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = _HEADER_BYTES.size + header_bytes + max(ends, default=0)
    if size != expected:
        raise ValueError(f"{size:,} bytes instead of {expected:,}")
