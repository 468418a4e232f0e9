"""A sweep: every task whose result is not there yet, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

from filelock import FileLock, Timeout
from rich.console import Console

from benchmarks.standard.protocol import System
from benchmarks.standard.results import ROOT, Result, Task, differences, read_result
from benchmarks.standard.sets import digests_of, prepared_set
from benchmarks.standard.systems import MODULES, system_of
from llamarec.errors import ArtifactError, ConfigError, LockedError
from llamarec.evaluation.metrics import ndcg_at

_SHOWN_LINES: Final = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        sets: Codes.
        splits: Names.
        systems: Names; empty: every system whose libraries are installed.
        num_seeds: Of systems that are random.
        folder: Of all that is written.
        data_root: Folder of raw files.
        threads: Of each measurement.
        max_epochs: Of a shortened training; 0: not shortened.
        accepts_other_code: Whether results of other code or versions are used.
    """

    sets: tuple[str, ...]
    splits: tuple[str, ...]
    systems: tuple[str, ...]
    num_seeds: int
    folder: Path
    data_root: str
    threads: int
    max_epochs: int
    accepts_other_code: bool

    def tasks(self, systems: list[System]) -> Iterator[Task]:
        """In order: what takes seconds first, then set by set."""
        for system in systems:
            seeds = range(1, self.num_seeds + 1) if system.is_random else range(1, 2)
            for set_code in self.sets:
                for split in self.splits:
                    yield from (Task(set_code, split, system.name, seed) for seed in seeds)


class Sweep:
    """A sweep, as a context that no second one in the same folder can enter.

    Args:
        plan: What to measure.
        console: Receives a line for each task.

    Attributes:
        failed: Tasks whose process ended with an error.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan, self._console = plan, console
        self._lock = FileLock(plan.folder / ".lock")
        self.failed: list[Task] = []

    def __enter__(self) -> Sweep:
        self._plan.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(
                f"another sweep is running in {self._plan.folder}", hint="wait for it, or give another --folder"
            ) from None
        self._before = signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)
        self._lock.release()

    def run(self) -> dict[Task, Result]:
        """Measures what is missing.

        Raises:
            LlamarecError: data or a library is missing; nothing was measured.
        """
        systems = self._systems()
        digests = self._digests()
        results = {}

        for task in self._plan.tasks(systems):
            result = self._usable(task, digests[task.set_code, task.split]) or self._measured(task)
            if result is not None:
                results[task] = result
        return results

    def stored(self) -> dict[Task, Result]:
        """What is there.

        Raises:
            ArtifactError: nothing is, or some of it is of other code or data.
        """
        systems = [system_of(name) for name in self._plan.systems or MODULES]
        digests = self._digests()
        found = {task: read_result(task.path(self._plan.folder)) for task in self._plan.tasks(systems)}
        results = {task: one for task, one in found.items() if one is not None}
        command = "type the same command without --write"

        if not results:
            raise ArtifactError(f"{self._plan.folder}: nothing has been measured", hint=command)
        for task, result in results.items():
            reasons = self._reasons(task, result, digests[task.set_code, task.split])
            if reasons:
                raise ArtifactError(
                    f"{task.path(self._plan.folder)}: measured with other code or data",
                    found=reasons,
                    hint=[f"to measure it again: {command}", "to use it all the same: --accept_other_code"],
                )
        return results

    def _systems(self) -> list[System]:
        """Those of the plan.

        Raises:
            ConfigError: one that was asked for by name needs a library that is missing.
        """
        systems = [system_of(name) for name in self._plan.systems or MODULES]
        for system in list(systems):
            try:
                system.needs()
            except ConfigError as error:
                if self._plan.systems:
                    raise
                systems.remove(system)
                command = (error.hint or "").partition("\n")[0]
                self._say(f"{system.name} is left out ({error.found}); to have it: {command}")
        return systems

    def _digests(self) -> dict[tuple[str, str], dict[str, str]]:
        """Of every set and split, all prepared and checked before the first measurement."""
        plan = self._plan
        return {
            (code, split): digests_of(prepared_set(code, split, plan.folder, plan.data_root))
            for code in plan.sets
            for split in plan.splits
        }

    def _usable(self, task: Task, digests: dict[str, str]) -> Result | None:
        path = task.path(self._plan.folder)
        result = read_result(path)
        if result is None:
            if path.exists():
                self._say(f"{_named(task)}: measured again, as {path.name} is damaged or of an earlier version")
            return None

        reasons = self._reasons(task, result, digests)
        if not reasons:
            return result
        self._say(f"{_named(task)}: measured again, as it was of {'; '.join(reasons)}")
        return None

    def _reasons(self, task: Task, result: Result, digests: dict[str, str]) -> list[str]:
        found = differences(result, system_of(task.system), digests, self._plan.max_epochs)
        if found.code and self._plan.accepts_other_code:
            self._say(f"{_named(task)}: used, although of {'; '.join(found.code)}")
            return found.data
        return [*found.data, *found.code]

    def _measured(self, task: Task) -> Result | None:
        log = self._plan.folder / "logs" / f"{task.path(self._plan.folder).stem}.log"
        log.parent.mkdir(parents=True, exist_ok=True)

        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                self._command(task), cwd=ROOT, env=self._environment(), stdout=output, stderr=subprocess.STDOUT
            )
            try:
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

        result = read_result(task.path(self._plan.folder)) if code == 0 else None
        if result is None:
            self.failed.append(task)
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
            self._say("\n  ".join([f"{_named(task)}: failed ({code}); the end of {log}:", *lines]))
            return None

        first = next(iter(result.rows.values()))
        self._say(f"{_named(task)}: NDCG@10 {ndcg_at(first.as_array(), 10):.4f}; {result.fit_seconds:,.0f} s")
        return result

    def _command(self, task: Task) -> list[str]:
        plan = self._plan
        return [
            *(sys.executable, "-W", "ignore", "-m", "benchmarks.standard.measure"),
            *("--folder", str(plan.folder.resolve()), "--data_root", str(Path(plan.data_root).resolve())),
            *("--set", task.set_code, "--split", task.split, "--system", task.system, "--seed", str(task.seed)),
            *("--threads", str(plan.threads), "--max_epochs", str(plan.max_epochs)),
        ]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": str(self._plan.threads), "OMP_WAIT_POLICY": "PASSIVE"}

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def _named(task: Task) -> str:
    return f"{task.set_code} {task.split} {task.system} seed {task.seed}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
