"""Commands in forks of a process that has everything imported: real processes, without the seconds of the imports."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from llamarec.cli.main import main
from tests.resume.forks import CAN_FORK, ROOT, Ending, Forks


class Run(Protocol):
    """Runs a command to its end, in a process of its own."""

    def __call__(self, *words: object, limit: int | None = None) -> Ending:
        """See there.

        Args:
            words: Those behind `llamarec`.
            limit: Bytes of the largest file that it may write. What it says goes to such a file, too.
        """


@contextlib.contextmanager
def commands() -> Iterator[Run]:
    """A process that forks one for each command; a new interpreter for each where there are no forks."""
    if not CAN_FORK:
        yield _run_anew
        return

    with Forks(__name__) as process:
        yield lambda *words, limit=None: process.run("command", words=[*map(str, words)], limit=limit)


def _run_anew(*words: object, limit: int | None = None) -> Ending:
    assert limit is None
    command = [sys.executable, "-B", "-m", "llamarec.cli.main", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return Ending(done.returncode, None, done.stdout)


# ---- In the process that forks, and in its children ----


def warm_up(_: Path) -> None:
    """Imports what commands import late."""
    import torch

    import llamarec.export.export
    import llamarec.recommend.batch
    import llamarec.recommend.recommender  # noqa: F401

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # or each child's collections would copy every page that it shares


def command(words: list[str], limit: int | None) -> None:
    """Runs a command, and ends with its exit code."""
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    sys.exit(main(words))
