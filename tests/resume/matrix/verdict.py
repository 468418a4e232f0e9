"""Whether a training that is killed and resumed ends as the one that never was: a row's verdict.

Each training runs in a process of its own. It ends by SIGKILL, as a power loss would end it.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from transformers import Trainer, TrainerCallback

from llamarec.checkpoints import ResumableTrainer
from llamarec.errors import LlamarecError
from tests.resume import forks
from tests.resume.matrix.subjects import Judged, Subject, TrainerClass
from tests.resume.training import digest

_KILLED_AFTER: Final = 5
_TIMES: Final = ("runtime", "per_second")
_SUMMARY: Final = "summary"

Kind = Literal[
    "equal", "equal but for the summary", "refused", "refused at the first save", "not here", "DIFFERENT", "LOST"
]
BAD: Final = ("DIFFERENT", "LOST")
"""What no row of ours may be: another model in silence, and a checkpoint that was called good and cannot be resumed."""


@dataclass(frozen=True)
class Verdict:
    """What became of a row.

    Attributes:
        kind: In a word or two.
        why: What differs, or the first line of the error; empty where all is equal.
    """

    kind: Kind
    why: str = ""


class Watch(TrainerCallback):
    """Counts the steps of this process, and kills it after one of them.

    Args:
        file: Gets the number of steps, for a process that cannot tell it any more.
        kill: Whether to.
    """

    def __init__(self, file: Path, *, kill: bool) -> None:
        self._file, self._kill, self._done = file, kill, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `TrainerCallback`."""
        self._done += 1
        self._file.write_text(str(self._done), encoding="utf-8")
        if self._kill and state.global_step == _KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)


def verdicts(point: Subject | Judged, folder: Path) -> dict[str, dict[str, str]]:
    """A row's verdict with our Trainer, and with the plain one where it trains too; a job of `forks.each`."""
    if isinstance(point, Judged):
        return {"llamarec": vars(_judged(point))}

    classes: dict[str, TrainerClass] = {"llamarec": ResumableTrainer, "plain": Trainer}
    return {name: vars(verdict(point, cls, folder / name)) for name, cls in classes.items()}


def _judged(row: Judged) -> Verdict:
    kind, _, why = row.judge().partition(": ")
    if kind in ("equal", "refused"):
        return Verdict("equal" if kind == "equal" else "refused", why)

    return Verdict("DIFFERENT", why)


def verdict(subject: Subject, cls: TrainerClass, folder: Path) -> Verdict:
    """Trains a row without an interruption, then killed and resumed, and compares.

    Args:
        subject: The row.
        cls: The Trainer's class.
        folder: For everything; made.
    """
    whole = _run(folder, "whole", subject, cls)
    if not whole.ended:
        return _not_trained(whole)

    killed = _run(folder, "run", subject, cls, kill=True)
    if killed.status != -signal.SIGKILL:
        return Verdict("LOST", f"the second training was not like the first: {killed.error}")

    resumed = _run(folder, "run", subject, cls, resume=True)
    if not resumed.ended:
        return Verdict("LOST", f"refused when it is resumed: {resumed.error}")

    differences = [name for name in whole.ended if whole.ended[name] != resumed.ended.get(name)]
    if differences == [_SUMMARY]:
        return Verdict("equal but for the summary")

    return Verdict("DIFFERENT", ", ".join(differences)) if differences else Verdict("equal")


@dataclass(frozen=True)
class _Run:
    """How one process ended: `ended` is empty where it did not train to the end."""

    status: int
    ended: dict[str, str]
    error: str
    is_refusal: bool
    steps: int


def _not_trained(whole: _Run) -> Verdict:
    if not whole.is_refusal:
        return Verdict("not here", whole.error)

    return Verdict("refused" if not whole.steps else "refused at the first save", whole.error)


def _run(
    folder: Path, run: str, subject: Subject, cls: TrainerClass, *, kill: bool = False, resume: bool = False
) -> _Run:
    watched, scratch = folder / f"{run}.steps", folder / f"{run}.child"
    folder.mkdir(parents=True, exist_ok=True)
    watched.unlink(missing_ok=True)

    job = {"subject": subject, "cls": cls, "folder": folder / run, "steps": watched, "kill": kill, "resume": resume}
    ending = forks.run(scratch, _train, **job)

    result: dict[str, Any] = ending.result or {"error": ending.log.strip()[-200:], "is_refusal": False}
    steps = int(watched.read_text(encoding="utf-8")) if watched.is_file() else 0
    return _Run(ending.status, result.get("ended", {}), result.get("error", ""), bool(result.get("is_refusal")), steps)


def _train(
    *, subject: Subject, cls: TrainerClass, folder: Path, steps: Path, kill: bool, resume: bool
) -> dict[str, Any]:
    """The job of a child: trains, and tells everything that must be equal, or the error."""
    try:
        trainer = subject.make(folder, cls, Watch(steps, kill=kill))
        trainer.train(resume_from_checkpoint=True if resume else None)
    except LlamarecError as error:
        return {"error": _first_line(error, folder), "is_refusal": True}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {_first_line(error, folder)}", "is_refusal": False}

    return {"ended": _state(trainer)}


def _first_line(error: Exception, folder: Path) -> str:
    lines = str(error).replace(str(folder), "run").strip().splitlines()
    # Some libraries colour their messages.
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[0]) if lines else ""


def _state(trainer: Trainer) -> dict[str, str]:
    *log, summary = [
        {name: value for name, value in row.items() if not any(word in name for word in _TIMES)}
        for row in trainer.state.log_history
    ]
    model: Any = trainer.model
    optimizer: Any = trainer.optimizer
    scheduler: Any = trainer.lr_scheduler
    return {
        "weights": digest(model.state_dict()),
        "optimizer": digest(optimizer.state_dict()),
        "schedule": digest(scheduler.state_dict()),
        "log": json.dumps(log, sort_keys=True, default=str),
        _SUMMARY: json.dumps(summary, sort_keys=True, default=str),
        "random states": digest(
            [random.getstate(), np.random.get_state(legacy=False)["state"]["key"], torch.get_rng_state()]
        ),
    }
