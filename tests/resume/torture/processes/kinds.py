"""What can befall one process of a training, at every moment, and what must be true afterwards."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.resume.torture.kinds import Kind, Tally
from tests.resume.torture.processes.group import WORLD_SIZE, Group, train
from tests.resume.torture.processes.rank import COUNTED, EVENTS

_INTERRUPTED: Final = 75
_LAST_STEP: Final = 6
_SHORT_TIMEOUT: Final = 10


@dataclass(frozen=True)
class Blow:
    """What befalls which process when.

    Attributes:
        rank: The process.
        moment: As `train_rank` takes it.
        number: Likewise.
    """

    rank: int
    moment: str
    number: int

    def __str__(self) -> str:
        return f"rank {self.rank}, {self.moment} {self.number}"


class Blows:
    """A training of several processes, of which one is hit.

    Args:
        action: A key of `_SIGNALS` of the ranks.
        moments: Where.
        arguments: Of `train`.
    """

    def __init__(self, action: str, moments: tuple[str, ...], **arguments: Any) -> None:
        self._action, self._moments, self._arguments = action, moments, arguments
        self._whole: Any = None

    def points(self, folder: Path) -> list[Blow]:
        """Every moment of every process in an undisturbed training."""
        group = train(folder, folder / "run")
        if group.hung or any(group.codes):
            raise AssertionError(group.said)
        self._whole = group.endings[0].result["outcome"]
        found = []
        for rank, ending in enumerate(group.endings):
            counts = ending.result["counts"]
            for moment in self._moments:
                numbers = range(counts[moment]) if moment in COUNTED else _steps(moment)
                found += [Blow(rank, moment, number) for number in numbers]
        return found

    def check(self, blow: Blow, folder: Path, tally: Tally) -> None:
        """Hit, looked at, and resumed."""
        from tests.resume.torture.trainings import problem_after_kill

        run, published = folder / "run", folder / "published"
        hit = train(
            folder / "hit",
            run,
            at_rank=blow.rank,
            moment=blow.moment,
            number=blow.number,
            action=self._action,
            published=str(published),
            **self._arguments,
        )
        problem = "they hung" if hit.hung else self._problem_of(hit, blow)
        steps = [int(line) for line in published.read_text(encoding="utf-8").split()] if published.exists() else []
        tally.add(problem or problem_after_kill(run, steps, False) or self._problem_at_end(folder, run))

    def _problem_of(self, hit: Group, blow: Blow) -> str:
        """Who is hit ends of it; the others end as what can be started again. After the last save, all may be done."""
        others = {code for rank, code in enumerate(hit.codes) if rank != blow.rank}
        if self._action in ("kill", "stop") and hit.codes[blow.rank] != -signal.SIGKILL:
            return f"ended with {hit.codes}, nobody was killed: {hit.said}"
        # Nobody is left to say it where the others had come to their end.
        expected = {1} if others == {0} and any(hit.codes) else {_INTERRUPTED, 0}
        return "" if hit.job in expected else f"the job ended with {hit.job}, its processes {hit.codes}: {hit.said}"

    def _problem_at_end(self, folder: Path, run: Path) -> str:
        again = train(folder / "again", run)
        if again.hung or any(again.codes):
            return f"the next start ended with {again.codes}: {again.said}"
        end = again.endings[0].result["outcome"]
        differ = sorted(name for name in self._whole if end[name] != self._whole[name])
        return f"another end than without it: {differ}" if differ else ""


def _steps(event: str) -> range:
    if event in ("on_evaluate", "on_save"):
        return range(2, _LAST_STEP + 1, 2)
    if event == "on_epoch_end":
        return range(_LAST_STEP, _LAST_STEP + 1)
    return range(_LAST_STEP) if event in ("on_step_begin", "on_optimizer_step") else range(1, _LAST_STEP + 1)


_STEP: Final = ("forward", "backward")
_COLLECTIVES: Final = ("exchange", "gradients")


def _kind(name: str, what: str, blows: Blows, every: int = 1) -> Kind:
    return Kind(name, what, blows.points, blows.check, every, trains=True)


KINDS: Final = (
    _kind("rank-kill-step", "SIGKILL to one of 2 processes in forward, backward", Blows("kill", _STEP), 4),
    _kind("rank-kill-collective", "before each exchange and sum of gradients", Blows("kill", _COLLECTIVES), 4),
    _kind("rank-kill-save", "at every effect of saving", Blows("kill", ("effect",)), 6),
    _kind("rank-kill-between", "at the events of callbacks", Blows("kill", EVENTS), 2),
    _kind(
        "rank-stop",
        f"SIGSTOP to one, beyond --ddp_timeout {_SHORT_TIMEOUT}",
        Blows("stop", (*_STEP, *_COLLECTIVES, *EVENTS), ddp_timeout=_SHORT_TIMEOUT),
        12,
    ),
    _kind("rank-term", "SIGTERM to one", Blows("term", (*_STEP, *_COLLECTIVES, *EVENTS)), 8),
    _kind("rank-usr1", "SIGUSR1 to one, as Slurm does before its limit", Blows("usr1", (*_STEP, *EVENTS)), 8),
    _kind("rank-term-all", "SIGTERM to all, as a container ends", Blows("term-all", (*_STEP, *_COLLECTIVES)), 8),
)
assert WORLD_SIZE > 1
