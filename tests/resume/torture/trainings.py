"""Real trainings: killed at every effect, killed again, killed dozens of times, on full disks, with a wrong clock."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.storage.discovery import latest
from llamarec.checkpoints.storage.layout import BEST_MANIFEST, MANIFEST, RunFolder
from llamarec.errors import CheckpointError
from tests.resume import forks
from tests.resume.observers import without_most_writes
from tests.resume.torture.disk import mounted, require_mounts
from tests.resume.torture.kinds import Kind, Tally

_FEW_WRITES: Final = 60
_KILLS: Final = 24
_ROOMY: Final = 2**24


class Training:
    """The hard training of `tests.resume.training`, and how it ends when nobody disturbs it."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._whole: Any = None
        self._effects: list[tuple[str, str]] = []
        self._prepared: Path | None = None
        self._kill_between = (0.0, 1.0)

    def points(self, folder: Path) -> list[int]:
        """Numbers of the effects of an undisturbed training; of the many small writes only some."""
        result = self._run(folder, folder / "run")
        self._whole, self._effects = result["outcome"], [(effect, name) for effect, name in result["effects"]]
        return without_most_writes(self._effects, _FEW_WRITES)

    def schedules(self, folder: Path) -> list[int]:
        """Seeds of random moments, such that most kills come before the end."""
        started = time.monotonic()
        self._run(folder, folder / "short", max_steps=1)
        to_first_step = time.monotonic() - started
        self.points(folder)
        whole = time.monotonic() - started - to_first_step
        self._kill_between = (to_first_step / 2, to_first_step + whole / 12)
        return [1, 2]

    def points_of_second_line(self, folder: Path) -> list[int]:
        """The same for a training that begins anew at an older checkpoint and replaces the newer ones."""
        self.points(folder)
        self._prepared = folder.parent / "prepared"
        shutil.copytree(folder / "run", self._prepared)
        result = self._run(folder, folder / "run", resume=str(folder / "run" / "checkpoint-9"))
        self._effects = [(effect, name) for effect, name in result["effects"]]
        return without_most_writes(self._effects, _FEW_WRITES)

    def killed(self, number: int, folder: Path, tally: Tally) -> None:
        """Killed at one effect, looked at, and resumed."""
        run = self._killed(number, folder)
        tally.add(
            problem_after_kill(run, _published(folder), bool(self._prepared)) or self._problem_at_end(run, folder)
        )

    def killed_twice(self, number: int, folder: Path, tally: Tally) -> None:
        """And killed again: while it clears up, or anywhere after."""
        run = self._killed(number, folder)
        draw = random.Random(number)
        second = draw.choice((draw.randrange(8), draw.randrange(len(self._effects))))
        self._try(folder, run, kill_at=second)
        problem = problem_after_kill(run, _published(folder), False) or self._problem_at_end(run, folder)
        tally.add(f"then at {second}: {problem}" if problem else "")

    def killed_dozens_of_times(self, number: int, folder: Path, tally: Tally) -> None:
        """By somebody else, at any moment."""
        draw, run, kills = random.Random(number), folder / "run", 0
        for _ in range(_KILLS):
            child = self._start(folder, run)
            time.sleep(draw.uniform(*self._kill_between))
            child.kill()
            kills += child.wait().was_killed
        tally.add(self._problem_at_end(run, folder) or ("" if kills > _KILLS // 2 else f"only {kills} kills"))

    def disk_full(self, number: int, folder: Path, tally: Tally) -> None:
        """ENOSPC at an effect and some after it; training goes on, and nothing good is lost."""
        run = folder / "run"
        ending = self._try(folder, run, fail_at=number, fail_for=1 + number % 7)
        tally.add(_problem_of_full_disk(run, ending) or self._problem_at_end(run, folder, all_checkpoints=False))

    def wrong_clock(self, number: int, folder: Path, tally: Tally) -> None:
        """A clock that only goes back, before the kill and after it."""
        run = folder / "run"
        ending = self._try(folder, run, odd=["clock"], kill_at=number)
        assert ending.was_killed, ending.log
        tally.add(self._problem_at_end(run, folder, odd=["clock"]))

    def small_disk(self, size: int, folder: Path, tally: Tally) -> None:
        """A real file system that has no room, whatever it said when it was asked."""
        with mounted(folder / "disk", size) as disk:
            ending = self._try(folder, disk / "run", odd=["room"])
            problem = "" if ending.status == 0 else f"the training ended: {ending.log[-600:]}"
            if not problem and ending.result["last_save_failed"] and "WARNING" not in ending.log:
                problem = "nobody was told"
            shutil.copytree(disk / "run", folder / "run")
        tally.add(problem or self._problem_at_end(folder / "run", folder, all_checkpoints=False))

    # ---- Parts ----

    def _start(self, folder: Path, run: Path, **arguments: Any) -> forks.Child:
        from tests.resume.jobs import train

        return forks.start(folder / "child", train, folder=str(run), **{**self._options, **arguments})

    def _try(self, folder: Path, run: Path, **arguments: Any) -> forks.Ending:
        return self._start(folder, run, **arguments).wait()

    def _run(self, folder: Path, run: Path, **arguments: Any) -> Any:
        ending = self._try(folder, run, **arguments)
        if ending.status:
            raise AssertionError(ending.log[-2000:])
        return ending.result

    def _killed(self, number: int, folder: Path) -> Path:
        run, resume = folder / "run", "latest"
        if self._prepared is not None:
            shutil.copytree(self._prepared, run)
            resume = str(run / "checkpoint-9")
        ending = self._try(folder, run, resume=resume, kill_at=number, published=str(folder / "published"))
        assert ending.was_killed, ending.log[-600:]
        return run

    def _problem_at_end(self, run: Path, folder: Path, *, all_checkpoints: bool = True, odd: Any = ()) -> str:
        ending = self._try(folder, run, odd=list(odd))
        if ending.status:
            return f"the resume ended with {ending.status}: {ending.log[-600:]}"
        end, whole = dict(ending.result["outcome"]), dict(self._whole)
        if not all_checkpoints:
            # What could not be saved is not there.
            end.pop("checkpoints"), whole.pop("checkpoints")
        differ = sorted(name for name in whole if end[name] != whole[name])
        return (
            f"another end than without it: {differ}, {[(end[name], whole[name]) for name in differ]}" if differ else ""
        )


def _published(folder: Path) -> list[int]:
    path = folder / "published"
    return [int(line) for line in path.read_text(encoding="utf-8").split()] if path.exists() else []


def problem_after_kill(run: Path, published: list[int], any_line: bool) -> str:
    """What is wrong with a folder as the kill left it, nothing cleared up yet."""
    folder = RunFolder(run)
    try:
        choice = latest(folder) if run.is_dir() else None
    except CheckpointError as error:
        return f"latest: {error}"
    if choice is None:
        return f"no checkpoint, although {published} were published" if published else ""
    problem = "" if is_whole(choice.verdict.path) else f"{choice.verdict.path.name} is taken, and is damaged"
    swapped = any(kind == "replaced" for kind, _ in folder.leftovers())
    step = int(choice.verdict.path.name.partition("-")[2])
    if published and not problem and not any_line and not swapped and step < published[-1]:
        problem = f"checkpoint-{step} is taken, although {published} were published"
    return problem or _problem_of_best(run)


def _problem_of_best(run: Path) -> str:
    """Loadable at any time; and as best.json says, here or (while it is moved) in the staging folder."""
    if not (run / BEST_MANIFEST).is_file():
        return ""
    from llamarec.checkpoints.resume.safe_load import load_weights

    if load_weights(run) is None:
        return "best model: no weights"
    lists = [json.loads((run / BEST_MANIFEST).read_bytes())]
    # The one that is being written counts once it is whole.
    with contextlib.suppress(OSError, ValueError):
        lists.append(json.loads((run / ".best" / BEST_MANIFEST).read_bytes()))

    hashes: dict[str, set[str]] = {}
    for content in lists:
        for name, entry in content["files"].items():
            hashes.setdefault(name, set()).add(entry["sha256"])
    wrong = [name for name, those in hashes.items() if _sha256(run / name) not in those]
    return f"best model: {wrong} as in no best.json" if wrong else ""


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is there as the manifest says, read here and not by the library."""
    listed = json.loads((checkpoint / MANIFEST).read_bytes())["files"]
    there = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    return there == {*listed, MANIFEST} and all(
        _sha256(checkpoint / name) == entry["sha256"] for name, entry in listed.items()
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _problem_of_full_disk(run: Path, ending: forks.Ending) -> str:
    if ending.status:
        # Where not even the folder can be cleared up nothing is begun.
        begun = "CheckpointError" not in ending.log or RunFolder(run).checkpoints()
        return f"the training ended: {ending.log[-600:]}" if begun else ""
    if ending.result["failed"] and "WARNING" not in ending.log:
        return f"nobody was told: {ending.result['failed']}"
    last = ending.result["outcome"] and ending.result["outcome"]["last"]
    if not ending.result["last_save_failed"] and last != f"checkpoint-{ending.result['step']}":
        return f"no save is said to have failed, and the last checkpoint is {last}"
    return ""


def _sizes(training: Training) -> Any:
    def points(folder: Path) -> list[int]:
        require_mounts(folder)
        training.points(folder)
        needed = sum(path.stat().st_size for path in (folder / "run").rglob("*") if path.is_file())
        return list(range(32_768, needed + needed // 4, 4096))

    return points


def _kinds() -> tuple[Kind, ...]:
    plain, second, twice, full, clock = Training(), Training(), Training(), Training(), Training()
    long: dict[str, Any] = {"num_train_epochs": 8.0, "patience": 100}
    many = Training(**long, config={"save_seconds": 1e-3})
    workers = Training(**long, dataloader_num_workers=2)
    small, small_bin = Training(), Training(config={"adapter_format": "bin"})
    return (
        Kind("train-kill", "a training, SIGKILL at every effect", plain.points, plain.killed),
        Kind("train-swap", "a second line of saves over the first", second.points_of_second_line, second.killed),
        Kind("train-twice", "killed again while it resumes", twice.points, twice.killed_twice, 3),
        Kind(
            "train-dozens", f"{_KILLS} kills at any moment, saves by time", many.schedules, many.killed_dozens_of_times
        ),
        Kind("train-workers", "the same with worker processes", workers.schedules, workers.killed_dozens_of_times),
        Kind("train-full", "a training, ENOSPC at every effect", full.points, full.disk_full, 2),
        Kind("train-small", "a training on a real file system that is too small", _sizes(small), small.small_disk),
        Kind("train-small-bin", "the same with adapter_model.bin", _sizes(small_bin), small_bin.small_disk, 2),
        Kind("train-clock", "a training, the clock set back, and a kill", clock.points, clock.wrong_clock, 10),
    )


KINDS = tuple(replace(kind, trains=True) for kind in _kinds())
