"""Damage to every file of the newest checkpoint: a bit, its end, all of it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.storage.discovery import choose_checkpoint, latest
from llamarec.checkpoints.storage.layout import MANIFEST, RunFolder
from llamarec.checkpoints.storage.verification import verify
from llamarec.errors import CheckpointError
from tests.resume import forks
from tests.resume.torture.kinds import Kind, Tally

_FLIPS: Final = 60
"""Bits that are flipped in each file, beside those at its ends."""


class Damaged:
    """A run of which the newest checkpoint is damaged, file by file."""

    def __init__(self) -> None:
        self._run = Path()

    def points(self, folder: Path) -> list[str]:
        """The files of a real training's newest checkpoint."""
        from tests.resume.jobs import train

        self._run = folder.parent / "run"
        ending = forks.run(folder / "child", partial(train, max_steps=6), folder=str(self._run))
        if ending.status:
            raise AssertionError(ending.log)
        checkpoint = RunFolder(self._run).checkpoint(6)
        return sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())

    def check(self, name: str, folder: Path, tally: Tally) -> None:
        """Damages one file in every way."""
        run = RunFolder(folder / "run")
        shutil.copytree(self._run, run.path)
        path = run.checkpoint(6) / name
        whole = path.read_bytes()
        for what, data in ways_to_damage(name, whole):
            path.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)
            problem = _problem(run, name)
            tally.add(f"{what}: {problem}" if problem else "")
        path.write_bytes(whole)
        choice = latest(run)
        tally.add("" if choice and choice.verdict.path == run.checkpoint(6) else "refused although it is whole again")


def ways_to_damage(name: str, whole: bytes) -> Iterator[tuple[str, bytes | None]]:
    """What was done, and the content that is left (None where the file is gone); never one that says the same."""
    for what, data in _all_ways(name, whole):
        # In JSON an E is as good as an e, and the last line needs no end.
        if name != MANIFEST or data is None or not _same_json(data, whole):
            yield what, data


def _all_ways(name: str, whole: bytes) -> Iterator[tuple[str, bytes | None]]:
    size, draw = len(whole), random.Random(name)
    yield "deleted", None
    for length in sorted({0, 1, size // 2, size - 1}):
        yield f"cut off after {length} bytes", whole[:length]
    yield "a byte too long", whole + b"\0"
    yield "zeroed", bytes(size)
    for place in sorted({0, size - 1, *draw.sample(range(size), min(_FLIPS, size))}):
        bit = draw.randrange(8)
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} flipped", bytes(flipped)


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        same: Any = json.loads(one) == json.loads(other)
        return bool(same)
    except ValueError:
        return False


def _problem(run: RunFolder, name: str) -> str:
    damaged, older = run.checkpoint(6), run.checkpoint(3)
    verdict = verify(damaged)
    if verdict.is_resumable or name not in verdict.reason:
        return f"verify says {verdict.health}: {verdict.reason}"
    choice = latest(run)
    if choice is None or choice.verdict.path != older:
        return f"latest takes {choice and choice.verdict.path.name}"
    if [passed.path for passed in choice.passed_over] != [damaged]:
        return "latest does not say what it passed over"
    try:
        choose_checkpoint(run, damaged)
    except CheckpointError as error:
        text = str(error)
        return "" if name in text and older.name in text else f"the refusal names neither file nor way out: {text}"
    return "it is taken when it is named"


_DAMAGED = Damaged()
KINDS = (
    Kind("damage", "bits flipped, cut off, emptied, deleted: every file", _DAMAGED.points, _DAMAGED.check, trains=True),
)
