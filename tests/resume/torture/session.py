"""A scripted run without a training: everything that can happen to a run's folder, in some milliseconds.

The content of every file follows from the save's number, so that what is found after a kill can be compared with what
must be there, whatever the library itself says about it.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from llamarec.checkpoints.storage.discovery import latest
from llamarec.checkpoints.storage.layout import MANIFEST, RunFolder, step_of
from llamarec.checkpoints.storage.lock import RunLock
from llamarec.checkpoints.storage.manifest import Manifest
from llamarec.checkpoints.storage.publish import Staging
from llamarec.checkpoints.storage.recovery import recover
from llamarec.checkpoints.trainer.saves.snapshots import Snapshot
from llamarec.checkpoints.trainer.saves.writer import CheckpointWriter
from llamarec.errors import CheckpointError


@dataclass(frozen=True)
class Save:
    """One save of the script; its number is its place in it."""

    step: int
    best_step: int
    reason: str = "scheduled"
    weights: str = "adapter_model.safetensors"


# With a limit of 2: rotation, a best model that is kept and one that falls out, a save for the clock, the adapter in
# the other format, and a second line of saves over the first one's steps, the best one among them.
SCRIPT: Final = (
    Save(2, 2),
    Save(4, 2),
    Save(5, 5, "best"),
    Save(6, 5, weights="adapter_model.bin"),
    Save(8, 8, weights="adapter_model.bin"),
    Save(10, 8, weights="adapter_model.bin"),
    Save(8, 8),
    Save(10, 8),
    Save(12, 12, "final"),
)
LIMIT: Final = 2
LAST: Final = len(SCRIPT) - 1
_CREATED: Final = "2024-02-29T12:00:00+00:00"
_OF_MODEL: Final = ("adapter_config.json", "adapter_model.bin", "adapter_model.safetensors", "second/adapter_model.bin")


def contents(number: int) -> dict[str, bytes]:
    """The files of a save, by name."""
    sizes = {
        "adapter_config.json": 60,
        SCRIPT[number].weights: 900,
        "second/adapter_model.bin": 300,
        "optimizer.pt": 2000,
        "scheduler.pt": 100,
        "rng_state.pth": 400,
        "trainer_state.json": 200,
        "training_args.bin": 150,
    }
    files = {name: random.Random(f"{number} {name}").randbytes(size) for name, size in sizes.items()}
    files["adapter_config.json"] = b'{"r": 4}'  # does not change within a run
    return files


def best_of(number: int) -> dict[str, bytes]:
    """The files of the best model as of a save."""
    step = SCRIPT[number].best_step
    source = max(other for other in range(number + 1) if SCRIPT[other].step == step)
    return {name: data for name, data in contents(source).items() if name in _OF_MODEL}


def snapshot(number: int) -> Snapshot:
    """A save as the `CheckpointWriter` takes it: written through it, in pieces, and by path behind its back."""
    save, files = SCRIPT[number], contents(number)

    def fill(staging: Staging) -> None:
        (staging.path / "second").mkdir()
        by_path = ("adapter_config.json", "second/adapter_model.bin")
        for name in by_path:
            (staging.path / name).write_bytes(files[name])
        for name in files.keys() - set(by_path):
            half = len(files[name]) // 2
            pieces = (files[name][:half], files[name][half:])
            staging.write_with(name, lambda file, pieces=pieces: [file.write(piece) for piece in pieces])  # type: ignore[misc]

    manifest = Manifest(
        step=save.step,
        epoch=save.step / 10,
        position={"epoch": 0, "sample": save.step},
        sequence=number,
        reason=save.reason,
        created=_CREATED,
        run_id="run",
        metrics={"best_step": save.best_step},
    )
    return Snapshot(manifest=manifest, fill=fill, num_bytes=sum(map(len, files.values())), can_retry=True)


def play(
    folder: Path,
    *,
    begun: Callable[[int], None] = lambda _: None,
    published: Callable[[int], None] = lambda _: None,
    failed: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    until: int = LAST,
) -> CheckpointWriter:
    """Goes on with the script after the newest checkpoint, as a training does.

    Args:
        folder: The run's folder.
        begun: Told the number of every save before it.
        published: Told the number of every save that did not fail, when it is over.
        failed: Told the number of every other save.
        say: Told what a user would read.
        until: Number of the last save.
    """
    run = RunFolder(folder)
    with RunLock(run):
        saver = CheckpointWriter(run, limit=LIMIT, warn=say, in_background=False)
        for number in range(begin(saver) + 1, until + 1):
            begun(number)
            saver.submit(snapshot(number))
            (failed if saver.last_error else published)(number)
    return saver


def begin(saver: CheckpointWriter) -> int:
    """Clears up and ends the newest save, as the Trainer does; returns its number, -1 if there is none."""
    recover(saver.run)
    choice = latest(saver.run)
    if choice is None or choice.verdict.manifest is None:
        return -1
    saver.finish(choice.verdict.manifest)
    return choice.verdict.manifest.sequence


def number_of(checkpoint: Path) -> int | None:
    """The save that a checkpoint's folder is, every byte of it; None if it is not just that."""
    files = files_of(checkpoint)
    try:
        manifest = json.loads(files.pop(MANIFEST))
    except (KeyError, ValueError):
        return None
    number = manifest.get("sequence")
    listed = {name: (entry["num_bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    found = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    whole = files == contents(number) and listed == found and SCRIPT[number].step == step_of(checkpoint)
    return number if whole else None


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, by path relative to it; without who holds the run's lock."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".run."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def problem_of(folder: Path, published: int, *, recovered: bool) -> str:
    """What must hold of a run's folder at any time, and is not so; an empty text if all is well.

    Args:
        folder: The run's folder.
        published: Number of the newest save that was over; -1 if none was.
        recovered: A process has cleared up meanwhile, and nothing but that.
    """
    run = RunFolder(folder)
    try:
        choice = latest(run)
    except CheckpointError as error:
        return f"latest: {error}"
    if choice is None:
        return f"no checkpoint, although save {published} was over" if published >= 0 else ""
    number = number_of(choice.verdict.path)
    if number is None:
        return f"{choice.verdict.path.name} is taken as good, and is not what was saved"
    if recovered and number < published:
        return f"save {number} is taken as the newest, although save {published} was over"
    return _problem_of_best(folder, number, published, recovered) or (_leftover(run) if recovered else "")


@cache
def kept_after() -> list[dict[int, int | None]]:
    """What `checkpoints_in` gives after each save of an undisturbed session."""
    states: list[dict[int, int | None]] = []
    with TemporaryDirectory() as folder:
        play(Path(folder), published=lambda _: states.append(checkpoints_in(Path(folder))))
    return states


def checkpoints_in(folder: Path) -> dict[int, int | None]:
    """The number of the save that each checkpoint is, by step; None for one that is not as it was saved."""
    return {step: number_of(path) for path in RunFolder(folder).checkpoints() if (step := step_of(path)) is not None}


def problem_of_kept(folder: Path) -> str:
    """Whether just those checkpoints are there that belong to the newest one, once the last save is ended."""
    choice = latest(RunFolder(folder))
    number = number_of(choice.verdict.path) if choice else None
    found, expected = checkpoints_in(folder), {} if number is None else kept_after()[number]
    return "" if found == expected else f"checkpoints (step: save) {found} instead of {expected}"


def _leftover(run: RunFolder) -> str:
    names = {path.name for path in run.path.iterdir() if path.is_dir()}
    strange = names - {f"checkpoint-{save.step}" for save in SCRIPT} - {"second"}
    return f"left over: {sorted(strange)}" if strange else ""


def problem_of_best_now(folder: Path) -> str:
    """Whether a best model is all there: as best.json says, or as the one says that is on its way."""
    files = files_of(folder)
    here, staged = files.get("best.json"), files.get(".best/best.json", b"")
    if here is None or _has_all(files, here, ("",)):
        return ""
    try:
        return "" if _has_all(files, staged, ("", ".best/")) else "best model: parts of two"
    except ValueError:
        return "best model: parts of two, and the one on its way is no longer there"


def _has_all(files: dict[str, bytes], manifest: bytes, places: tuple[str, ...]) -> bool:
    listed = json.loads(manifest)["files"]
    return all(
        any(hashlib.sha256(files.get(place + name, b"")).hexdigest() == entry["sha256"] for place in places)
        for name, entry in listed.items()
    )


def _problem_of_best(folder: Path, number: int, published: int, recovered: bool) -> str:
    """The best model in the run's folder itself: whole files at any time, those of its manifest after clearing up."""
    there = {name: data for name, data in files_of(folder).items() if name in (*_OF_MODEL, "best.json")}
    listed = json.loads(there.pop("best.json", b"null"))
    if listed is None and (recovered or not there):
        return "" if published < 0 and not there else f"no best model, although save {published} was over"
    possible = [
        best_of(other) for other in range(max(published, 0), max(number, published + 1, 0) + 1) if other <= LAST
    ]
    if not recovered:
        torn = [name for name, data in there.items() if all(data != best.get(name) for best in possible)]
        return f"best model: {torn} is no whole file of it" if torn else problem_of_best_now(folder)
    if there not in possible:
        return f"best model: {sorted(there)} are not those of one save"
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in there.items()}
    same = hashes == {name: entry["sha256"] for name, entry in listed["files"].items()}
    return "" if same else "best model: best.json lists something else"
