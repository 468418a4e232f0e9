"""Programs in forks of a process that has everything imported: real processes, without the seconds of the imports.

An interpreter that imports torch, transformers and PEFT takes five seconds of processor time before it does anything.
What is tested about a start needs one all the same; everything else is as good in a fork.
"""

from __future__ import annotations

import gc
import importlib
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.resume.forks import LOG, ROOT, Child, Ending, Forks


class Programs:
    """Runs programs, each in a process of its own.

    Args:
        forks: The process that forks; None for a new interpreter for each.
        folder: For what new interpreters say.
    """

    def __init__(self, forks: Forks | None, folder: Path) -> None:
        self._forks, self._folder = forks, folder
        self._interpreters: dict[int, subprocess.Popen[bytes]] = {}

    def run(
        self, program: str, *words: object, environment: Mapping[str, str] | None = None, largest_file: int = 0
    ) -> Ending:
        """Runs a program to its end.

        Args:
            program: A module, as behind `python -m`, or the path of a script.
            words: Its arguments.
            environment: More variables.
            largest_file: Bytes that a file may have, that of its output included; 0: any number. Needs forks.
        """
        return self.wait(self.start(program, *words, environment=environment, largest_file=largest_file))

    def start(
        self, program: str, *words: object, environment: Mapping[str, str] | None = None, largest_file: int = 0
    ) -> Child:
        """Starts a program, see `run`; as the leader of a process group where there are some."""
        arguments: dict[str, Any] = {"words": [*map(str, words)], "environment": dict(environment or {})}
        if self._forks is not None:
            job = f"{__name__}:execute"
            return self._forks.start(job, program=program, largest_file=largest_file, **arguments)

        assert not largest_file
        return self._start_anew(program, **arguments)

    def wait(self, child: Child) -> Ending:
        """Until a started program has ended."""
        if self._forks is not None:
            return self._forks.wait(child)

        return Ending(self._interpreters.pop(child.pid).wait(), None, child.said)

    def _start_anew(self, program: str, words: list[str], environment: dict[str, str]) -> Child:
        folder = self._folder / str(len(list(self._folder.iterdir())))
        folder.mkdir()
        command = [sys.executable, "-W", "ignore", *(() if _is_path(program) else ("-m",)), program, *words]
        with (folder / LOG).open("wb") as log:
            variables = {**os.environ, "PYTHONIOENCODING": "utf-8", **environment}
            started = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT)

        self._interpreters[started.pid] = started
        return Child(started.pid, folder)


def _is_path(program: str) -> bool:
    return program.endswith(".py")


# ---- In the process that forks, and in its children ----

_LONGEST_SECONDS: Final = 600
_IMPORTED: Final = (
    *("llamarec.export.export", "llamarec.ranker.training.run", "llamarec.recommend.batch"),
    *("llamarec.recommend.recommender", "tests.resume.training"),
)


def warm_up(_: Path) -> None:
    """Imports what programs import late."""
    import torch

    for name in _IMPORTED:
        importlib.import_module(name)

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # or each child's collections would copy every page that it shares


def execute(program: str, words: list[str], environment: dict[str, str], largest_file: int) -> None:
    """Runs a program in this process, and ends with its exit code."""
    os.setsid()
    signal.alarm(_LONGEST_SECONDS)  # one that hangs fails; it does not hold the session up
    os.environ.update(environment)
    # As of a shell, also where this session was started with them ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if largest_file:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    sys.argv[1:] = words
    if _is_path(program):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
