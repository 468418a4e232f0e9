"""Children of a process that has everything imported already: real processes, killed for real, without the imports.

    python -m tests.resume.forks     starts a child for each job that it reads, see `Forks`

Importing torch and transformers takes seconds, a fork some milliseconds. The parent has one thread and never computes
a gradient, so that a child may do anything.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

CAN_FORK = hasattr(os, "fork")
WHY_NOT = "this system has no fork, and a new interpreter for each kill would take minutes"
ROOT = Path(__file__).resolve().parents[2]
LOG = "log.txt"
"""What a process says, in its folder."""

Job = Callable[..., Any]


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes:
        status: Exit status; minus the signal's number where it was killed.
        result: What the job returned, if it came to its end.
        log: Its standard output and error.
    """

    status: int
    result: Any
    log: str

    @property
    def was_killed(self) -> bool:
        """By SIGKILL, and not before it could."""
        return self.status == -signal.SIGKILL


@dataclass(frozen=True)
class Child:
    """A forked process; what it writes goes to files in `folder`."""

    pid: int
    folder: Path

    def kill(self) -> None:
        """SIGKILL. A child that has ended meanwhile is still to be waited for, so that its number is its own."""
        os.kill(self.pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)

    @property
    def said(self) -> str:
        """Its standard output and error up to now."""
        return (self.folder / LOG).read_text(encoding="utf-8", errors="replace")

    def wait(self) -> Ending:
        """Until it has ended."""
        return self.ending(os.waitpid(self.pid, 0)[1])

    def ending(self, status: int) -> Ending:
        """Of a child that has been waited for; the status is as `waitpid` gives it."""
        result = self.folder / "result.json"
        return Ending(
            os.waitstatus_to_exitcode(status),
            json.loads(result.read_bytes()) if result.is_file() else None,
            self.said,
        )


def start(folder: Path, job: Job, /, **arguments: Any) -> Child:
    """Runs a job in a child.

    Args:
        folder: For its output and its result; made if it is not there. Not the folder that the job works in.
        job: Any function; what it returns must be JSON.
        arguments: Of the job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("result.json", LOG):
        (folder / name).unlink(missing_ok=True)
    (folder / LOG).touch()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _be_child(folder, job, arguments)
    return Child(pid, folder)


def run(folder: Path, job: Job, /, **arguments: Any) -> Ending:
    """`start`, and `wait`."""
    return start(folder, job, **arguments).wait()


def _be_child(folder: Path, job: Job, arguments: dict[str, Any]) -> None:
    status = 1
    try:
        log = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        result = job(**arguments)
        gc.collect()  # ends the workers of data loaders
        staging = folder / "result.new"
        staging.write_text(json.dumps(result), encoding="utf-8")
        staging.replace(folder / "result.json")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Nothing of the parent's is to be cleaned up here.
        os._exit(status)


def each(points: Iterable[Any], job: Job, folder: Path, at_once: int) -> Iterator[tuple[Any, Ending]]:
    """Runs `job(point=..., folder=...)` for every point in a child with a folder of its own, some at a time."""
    import shutil

    running: dict[int, tuple[Any, Child, Path]] = {}

    def ended() -> tuple[Any, Ending]:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert info is not None
        point, child, scratch = running.pop(info.si_pid)
        ending = child.wait()
        shutil.rmtree(scratch, ignore_errors=True)
        return point, ending

    for number, point in enumerate(points):
        if len(running) >= at_once:
            yield ended()
        scratch = folder / str(number)
        (scratch / "work").mkdir(parents=True)
        child = start(scratch / "child", job, point=point, folder=scratch / "work")
        running[child.pid] = (point, child, scratch)
    while running:
        yield ended()


class Forks:
    """A process that forks on demand, for programs that may not fork themselves: they have threads, as pytest has.

    A job is named `module:function`. The module's `warm_up`, if it has one, is called before its first fork.
    """

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="forks-")
        self._num_jobs = 0
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.resume.forks"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, job: str, /, **arguments: Any) -> Child:
        """Starts a child; `wait` for it here, not with its own method."""
        self._num_jobs += 1
        folder = Path(self._scratch.name) / str(self._num_jobs)
        return Child(self._ask({"start": job, "folder": str(folder), "arguments": arguments}), folder)

    def wait(self, child: Child) -> Ending:
        """Until a child has ended."""
        return Ending(**self._ask({"wait": child.pid}))

    def run(self, job: str, /, **arguments: Any) -> Ending:
        """`start`, and `wait`."""
        return self.wait(self.start(job, **arguments))

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that forks has ended with status {self._process.wait()}")
        return json.loads(answer)

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._scratch.cleanup()


def main() -> int:
    """Answers questions, one a line, until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    children: dict[int, Child] = {}
    for line in sys.stdin:
        question: dict[str, Any] = json.loads(line)
        answer: Any = None
        if "start" in question:
            child = start(Path(question["folder"]), _job(question["start"]), **question["arguments"])
            children[child.pid] = child
            answer = child.pid
        elif "wait" in question:
            ending = children.pop(question["wait"]).wait()
            answer = {"status": ending.status, "result": ending.result, "log": ending.log}
        print(json.dumps(answer), file=answers, flush=True)
    for child in children.values():
        child.kill()
        child.wait()
    return 0


def _job(name: str) -> Job:
    """By `module:function`, once what it needs is imported."""
    path, _, function = name.partition(":")
    module = importlib.import_module(path)
    if hasattr(module, "warm_up"):
        _warm(module.warm_up)

    job: Job = getattr(module, function)
    return job


@cache
def _warm(warm_up: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="warm-up-") as folder:
        warm_up(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
