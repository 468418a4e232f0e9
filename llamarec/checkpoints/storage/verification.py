"""Whether a folder is a checkpoint that can be resumed: sizes and hashes, compared with the manifest.

A plain Trainer's checkpoint has no manifest. There only two things can be verified: that the files a resume needs
exist, and the checksums inside their own formats (zip, JSON, the header of safetensors).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from llamarec.checkpoints.storage import durable, json_shapes
from llamarec.checkpoints.storage.entries import described, entries_below, require_regular
from llamarec.checkpoints.storage.file_formats import damage_of
from llamarec.checkpoints.storage.json_shapes import ShapeError
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
    is_process_state,
    step_of,
    weight_files,
)
from llamarec.checkpoints.storage.manifest import FileEntry, Manifest, read_manifest
from llamarec.errors import CheckpointError

CheckpointHealth = Literal["good", "incomplete", "damaged", "unverified"]

# What a resume loses without each part.
PARTS: Final[dict[str, str]] = {
    "weights": "the trained weights",
    TRAINER_STATE: "the step, the position in the data, the history and the best metric",
    OPTIMIZER: "the optimizer's moments",
    SCHEDULER: "the position in the learning-rate schedule",
    RNG: "the random states (dropout will differ)",
}
_OPTIONAL: Final = (TRAINER_STATE, OPTIMIZER, SCHEDULER, SCALER, RNG)
_IS_MISSING: Final = " is missing"
# Without these nothing can be resumed, whatever the user allows.
ESSENTIAL: Final = ("weights",)


class HostileError(CheckpointError):
    """A checkpoint with a file that would execute code; no other one is taken in its place without a word."""


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


Check = Callable[[Path], None]
"""Raises a `CheckpointError` if a checkpoint, whole as it is, cannot be read."""

Marks = dict[str, tuple[int, int, int, int]]
"""Size, inode, and times of the last change of content and of status (ns) of every file, by relative path."""

# File systems round times: a file written this recently can change and keep its time.
_TICK_NS: Final = 2 * 10**9


@dataclass(frozen=True)
class Verdict:
    """What verification found.

    Attributes:
        path: The folder.
        health: good (matches the manifest), unverified (complete, but without a manifest), incomplete (parts are
            missing, none is damaged) or damaged.
        problems: One sentence each, naming the file.
        missing: Missing parts of a resume; keys of `PARTS`.
        manifest: None without a readable one.
        seconds: Duration of the check.
        marks: State of the files just before they were hashed; None if they were not, or if one had just changed.
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
        """Whether the only problem is missing parts that training can continue without."""
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
        deep: Whether to hash the files; otherwise only names and sizes are compared.
    """
    started = time.perf_counter()
    if not checkpoint.is_dir():
        return Verdict(checkpoint, "damaged", (f"{checkpoint} is {described(checkpoint)}, not a folder",))

    try:
        return _verdict(checkpoint, deep, started)
    except Exception as error:
        # Whatever is wrong is said of this checkpoint, and is in the way of no other.
        found = (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"
        return Verdict(checkpoint, "damaged", (f"{checkpoint} cannot be read: {found}",))


def _verdict(checkpoint: Path, deep: bool, started: float) -> Verdict:
    # Taken before hashing, so that a change during it is noticed later.
    marks = _marks_of(checkpoint) if deep else None

    try:
        manifest = read_manifest(checkpoint)
    except CheckpointError as error:
        text = str(error).replace("\n", " ")
        return Verdict(checkpoint, "damaged", (text,), seconds=time.perf_counter() - started)

    missing = tuple(_missing_parts(checkpoint))
    damage = _against(checkpoint, manifest, deep) if manifest else _without_manifest(checkpoint, deep)
    absent = [f"{_description(part)}{_IS_MISSING}" for part in missing if not any(part in text for text in damage)]
    problems = damage + absent

    health: CheckpointHealth = "unverified" if manifest is None else "good"
    if problems:
        # A checkpoint saved with save_only_model is incomplete, not damaged.
        health = "damaged" if damage else "incomplete"
    return Verdict(checkpoint, health, tuple(problems), missing, manifest, time.perf_counter() - started, marks)


def checked(verdict: Verdict, check: Check | None) -> Verdict:
    """A verdict with what a further check found."""
    if check is None or not verdict.is_resumable:
        return verdict
    try:
        check(verdict.path)
    except HostileError:
        raise
    except CheckpointError as error:
        text = "; ".join([error.problem, *([f"expected {error.expected}"] if error.expected else [])])
        return replace(verdict, health="damaged", problems=(f"{text}, found {error.found}" if error.found else text,))
    return verdict


def verify_again(known: Verdict) -> Verdict:
    """Checks a checkpoint again; hashes its files only if one has changed since.

    Args:
        known: The verdict of `verify` earlier in this process.
    """
    if known.marks is not None and _marks_of(known.path) == known.marks:
        return known
    return verify(known.path)


def _marks_of(checkpoint: Path) -> Marks | None:
    """Marks of a checkpoint's files; None if a file has just changed or cannot be read."""
    newest = time.time_ns() - _TICK_NS
    marks: Marks = {}

    try:
        for path in entries_below(checkpoint):
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
        folder: A run's folder with best.json.
        deep: Whether to hash the files; otherwise only names and sizes are compared.
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


def _description(part: str) -> str:
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
    # Unlisted files are allowed, except those that a resume would read.
    there = {path.name for path in checkpoint.iterdir()} - manifest.files.keys()
    problems += [f"{name} was not saved with this checkpoint" for name in sorted(there) if _is_read(name)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        checked = pool.map(lambda item: _problem(checkpoint, item[0], item[1], deep), manifest.files.items())
        problems += [text for text in checked if text]
    return problems


def _is_read(name: str) -> bool:
    names = (*WEIGHTS, ADAPTER_CONFIG, EXTRA_STATE, TRAINER_STATE, OPTIMIZER, SCHEDULER, SCALER)
    return name in names or is_process_state(name)


def _problem(checkpoint: Path, name: str, entry: FileEntry, deep: bool) -> str:
    """What is wrong with a listed file; empty if nothing is."""
    path = checkpoint / name
    try:
        size = require_regular(path).st_size
        if size != entry.num_bytes:
            return f"{name} has {size:,} bytes instead of {entry.num_bytes:,}"
        if deep and durable.sha256_of(path) != entry.sha256:
            return f"{name} has changed since the save (SHA-256 differs)"
    except FileNotFoundError:
        return f"{name}{_IS_MISSING}"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror or error}"
    return ""


def _without_manifest(checkpoint: Path, deep: bool) -> list[str]:
    names = {path.name for path in checkpoint.iterdir() if path.exists() and not path.is_file() and not path.is_dir()}
    damage = [f"{name} is {described(checkpoint / name)}, not a file" for name in sorted(names) if _is_read(name)]
    files = [path for path in entries_below(checkpoint) if path.is_file()]
    damage += [text for path in files if (text := damage_of(path, deep=deep))]
    if was_ours(checkpoint / TRAINER_STATE):
        damage.insert(0, f"{MANIFEST} is missing (it was saved with one)")
    return damage


def was_ours(trainer_state: Path) -> bool:
    """Whether this package saved a trainer state, so that a manifest must be beside it.

    A plain Trainer that resumes our checkpoint keeps our entry, with the step at which it took over.
    """
    try:
        state = json_shapes.read(trainer_state, _TrainerState)
        entry = json_shapes.shaped(state.stateful_callbacks.get(STATE_NAME), _Entry)
    except (OSError, ShapeError):
        return False
    return entry.attributes.step == state.global_step
