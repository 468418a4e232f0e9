"""Faults at every call of a command: what is there afterwards, and what the next start makes of it."""

from __future__ import annotations

import contextlib
import gc
import importlib
import random
import shutil
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tests.resume import forks
from tests.resume.torture.kinds import Kind, NotHereError, Tally
from tests.resume.torture.recorder import LOSSES, Recorder, after_power_loss
from tests.resume.torture.syscalls.faults import FAULTS, Record, Spoil, Visit, Watch, What, numbers_for
from tests.resume.torture.syscalls.scenarios import SCENARIOS, Files, Scenario, files_of, may_be_there, problem_of_words
from tests.resume.torture.syscalls.tracer import trace, why_not

_BEST: Final = "adapter_model.bin"
_DRAWS: Final = 2
_TOGETHER: Final = 12


def warm_up(folder: Path) -> None:
    """Imports what the commands import late, so that no child has to."""
    import torch

    torch.set_num_threads(1)
    ending = forks.run(folder / "child", _modules, folder=str(folder / "run"))
    _expect_good(ending)
    for name in ending.result:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or each child's collections would copy every page that it shares


def _modules(folder: str) -> list[str]:
    prepared: set[str] = set()
    for scenario in SCENARIOS:
        if not scenario.warms_up:
            continue
        where = Path(folder) / scenario.prepare.__name__
        if where.name not in prepared:
            prepared.add(where.name)
            where.mkdir(parents=True)
            scenario.prepare(str(where))
        with contextlib.suppress(SystemExit):
            scenario.job(str(where))
    return sorted(set(sys.modules) - {"__main__"})


class Sweep:
    """A scenario, prepared and recorded once for all its faults.

    Args:
        scenario: What is traced.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._base = Path()
        self._old: Files = {}
        self._new: Files = {}
        self._watch: Record | None = None

    # ---- Points ----

    def points(self, what: What, folder: Path) -> list[int]:
        """Numbers of calls for one fault."""
        return numbers_for(what, self._recorded(folder).calls)

    def moments(self, folder: Path) -> list[tuple[int, int]]:
        """Ranges of moments at which the power may fail."""
        number = len(self._recorded(folder).recorder.moments)
        return [(start, min(start + _TOGETHER, number)) for start in range(0, number, _TOGETHER)]

    def _recorded(self, folder: Path) -> Record:
        """The command as it runs undisturbed."""
        if self._watch is not None:
            return self._watch
        reason = why_not()
        if reason:
            raise NotHereError(reason)

        self._base = folder.parent.parent / f"base-{self._scenario.prepare.__name__}"
        if not self._base.exists():
            self._base.mkdir()
            _expect_good(forks.run(folder / "prepare", self._scenario.prepare, folder=str(self._base)))
        self._old = self._scenario.result(self._base)

        whole = folder / "whole"
        shutil.copytree(self._base, whole, symlinks=True)
        watch = Record(whole / self._scenario.work, folder / "child")
        _expect_good(trace(folder / "child", watch, self._scenario.job, folder=str(whole)))
        watch.end()
        if watch.outside:
            raise AssertionError(f"changed outside of {self._scenario.work}: {watch.outside[:5]}")
        self._new = self._scenario.result(whole)
        self._watch = watch
        return watch

    # ---- Checks ----

    def check(self, what: What, number: int, folder: Path, tally: Tally) -> None:
        """One fault: looked at as it is, and the command once more."""
        run = folder / "run"
        shutil.copytree(self._base, run, symlinks=True)
        spoil = Spoil(run / self._scenario.work, folder / "child", what=what, number=number)
        ending = trace(folder / "child", spoil, self._scenario.job, folder=str(run))
        hit = f"{what} at {spoil.hit[0]}" if spoil.hit else "not reached"
        problem = self._problem_of_fault(what, spoil, ending, run)
        problem = problem or self.problem_left(run, folder, again=number % self._scenario.again_every == 0)
        tally.add(f"{hit}: {problem}" if problem else "")

    def _problem_of_fault(self, what: What, spoil: Watch, ending: forks.Ending, run: Path) -> str:
        if spoil.outside:
            return f"changed outside of {self._scenario.work}: {spoil.outside[:3]}"
        untouched = [name for name, digest in files_of(self._base).items() if not name.startswith(self._scenario.work)]
        there = files_of(run)
        if any(there.get(name) != files_of(self._base)[name] for name in untouched):
            return "a file outside was changed"
        problem = problem_of_words(ending)
        if not problem and what == "short" and (ending.status or self._scenario.result(run) != self._new):
            return f"a write of which the system took a half: {ending.log[-300:]}"
        if not problem and ending.status == 0 and (differ := self._not_new(self._scenario.result(run), run)):
            return f"ended with 0, and is not what was asked for: {differ}"
        return problem

    def problem_left(self, run: Path, folder: Path, *, again: bool = True) -> str:
        """The old result or the new one, readable; and the same command makes the new one.

        Args:
            run: The scenario's folder.
            folder: For output.
            again: Whether to repeat the command.
        """
        said = forks.run(folder / "verify", self._scenario.verify, folder=str(run))
        if said.status or said.result:
            return f"what is there is not good: {said.result or said.log[-800:]}"
        if differ := self._unknown(self._scenario.result(run), run):
            return f"neither the old nor the new: {differ}"
        if not again:
            return ""

        ending = forks.run(folder / "again", self._scenario.job, folder=str(run))
        refused = ending.status == 2 and self._scenario.may_refuse and self._scenario.may_refuse in ending.log
        if ending.status and not refused:
            return f"the next start ends with {ending.status}: {ending.log[-800:]}"
        if differ := self._not_new(self._scenario.result(run), run):
            return f"the next start makes something else: {differ}"
        return ""

    def _unknown(self, found: Files, run: Path) -> list[str]:
        """Parts of a result that are neither of the old one nor of the new one."""
        if self._scenario.grows:
            known = may_be_there(run)
            return [name for name, digest in found.items() if name != _BEST and known.get(name) != digest]
        return [] if found in ({}, self._old, self._new) else _differences(found, self._new)

    def _not_new(self, found: Files, run: Path) -> list[str]:
        """Parts in which a result is not the new one. Of a training whose disk was full, older checkpoints may lack."""
        if not self._scenario.grows or self._unknown(found, run):
            return _differences(found, self._new)
        checkpoints = sorted(name for name in self._new if name.startswith("checkpoint-"))
        last = [name for name in self._new if name not in checkpoints[:-1]]
        return [name for name in last if found.get(name) != self._new[name]]

    def power(self, moments: tuple[int, int], folder: Path, tally: Tally) -> None:
        """All that a power loss at some moments could leave."""
        assert self._watch is not None
        recorder, seen = self._watch.recorder, dict[str, str]()
        for number in range(*moments):
            num_changes, coming = recorder.moments[number]
            is_over = number == len(recorder.moments) - 1
            for said, left in self._left(recorder, num_changes, number, folder):
                key = repr((is_over, sorted(files_of(left).items())))
                if key not in seen:
                    seen[key] = self._problem_after_loss(left, folder, is_over)
                tally.add(f"before {coming}, {said}: {seen[key]}" if seen[key] else "")
                shutil.rmtree(left)

    def _left(self, recorder: Recorder, num_changes: int, number: int, folder: Path) -> Iterator[tuple[str, Path]]:
        for loss in LOSSES:
            for draw in range(_DRAWS if "some" in (loss.entries, loss.contents) else 1):
                left = folder / "left"
                shutil.copytree(self._base, left, symlinks=True)
                shutil.rmtree(left / self._scenario.work)
                dice = random.Random(f"{number} {draw}")
                after_power_loss(recorder, num_changes, loss, dice, left / self._scenario.work)
                yield f"unsynced entries {loss.entries}, contents {loss.contents}", left

    def _problem_after_loss(self, left: Path, folder: Path, is_over: bool) -> str:
        if is_over and (found := self._scenario.result(left)) != self._new:
            return f"the command had ended, and its result is not there: {_differences(found, self._new)}"
        return self.problem_left(left, folder)

    def unsynced(self, _: int, folder: Path, tally: Tally) -> None:
        """Files of the result that nobody synced: written around `durable`."""
        assert self._watch is not None
        for name in self._watch.recorder.unsynced():
            may_be_lost = name.endswith(_NOTES) or name.split("/")[-1].startswith(".run.")
            tally.add("" if may_be_lost else f"{name} is neither synced itself nor by its folder")
        tally.add("")

    def end(self, folder: Path) -> list[int]:
        """The command's end alone."""
        return [len(self._recorded(folder).calls)]

    def calls_under_lock(self, folder: Path) -> list[int]:
        """Numbers of the calls at which a second process must be refused."""
        calls = self._recorded(folder).calls
        begin = next(number for number, call in enumerate(calls) if call.paths[-1].name.endswith(".lock"))
        end = max(number for number, call in enumerate(calls) if call.paths[-1].name == self._scenario.until)
        return list(range(begin + 2, end))

    def second(self, number: int, folder: Path, tally: Tally) -> None:
        """A second process at a call of the first: it is refused in words, and the first is unhurt."""
        run, said = folder / "run", list[str]()
        shutil.copytree(self._base, run, symlinks=True)

        def visit() -> None:
            before = files_of(run)
            ending = forks.run(folder / "second", self._scenario.job, folder=str(run))
            if ending.status != 2 or "Traceback" in ending.log or "another" not in ending.log:
                said.append(f"the second one ends with {ending.status}: {ending.log[-600:]}")
            if before != files_of(run):
                said.append(f"the second one changed {_differences(files_of(run), before)}")

        watch = Visit(run / self._scenario.work, folder / "child", number=number, visit=visit)
        ending = trace(folder / "child", watch, self._scenario.job, folder=str(run))
        if ending.status or (differ := self._not_new(self._scenario.result(run), run)):
            said.append(f"the first one ends with {ending.status} {differ if not ending.status else ending.log[-400:]}")
        tally.add("; ".join(said))

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """One for each fault."""
        scenario = self._scenario

        def of(what: What, said: str) -> Kind:
            def check(point: Any, folder: Path, tally: Tally) -> None:
                self.check(what, point, folder, tally)

            def points(folder: Path) -> list[int]:
                return self.points(what, folder)

            name = f"{scenario.name}-{what}"
            return Kind(name, f"{scenario.what}: {said}", points, check, scenario.every, trains=True)

        found = [of(what, said) for what, said in FAULTS.items()]
        said = f"{scenario.what}: written around fsync"
        found.append(Kind(f"{scenario.name}-unsynced", said, self.end, self.unsynced, trains=True))
        if scenario.power:
            text = f"{scenario.what}: power loss at every call"
            found.append(Kind(f"{scenario.name}-power", text, self.moments, self.power, scenario.every, trains=True))
        if scenario.until:
            text = f"{scenario.what}: a second process at every call"
            found.append(
                Kind(f"{scenario.name}-second", text, self.calls_under_lock, self.second, scenario.every, trains=True)
            )
        return tuple(found)


_NOTES: Final = (".lock", "-lock", ".partial", ".partial.json", ".inputs.json", ".titles")
"""Nothing depends on them after the command has ended."""


def _differences(found: Files, wanted: Files) -> list[str]:
    return sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))[:8]


def _expect_good(ending: forks.Ending) -> None:
    if ending.status:
        raise AssertionError(f"undisturbed it ends with {ending.status}: {ending.log[-2000:]}")
