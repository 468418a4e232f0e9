"""`llamarec launch`: starts a launcher such as torchrun, and ends as its processes did."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from llamarec.checkpoints.storage.outcomes import OUTCOMES, outcome_in
from llamarec.cli.arguments import Subparsers, add_verb
from llamarec.errors import EXIT_FAILED, ConfigError

SUMMARY = "Run torchrun (or another launcher) so that its exit code and its signals are those of one process."

_EPILOG = """\
  llamarec launch -- torchrun --nproc_per_node 2 \\
      train_ranker.py --dataset_code beauty --resume_from_checkpoint

torchrun alone ends with 1 where its processes end with 75
or 74, and kills them 30 seconds after a signal. This ends
with their code: 0, 1, 2, 74, 75 or 130, as the guide says
(docs/en/resume.md, 11). SIGTERM, Ctrl-C, SIGHUP and SIGUSR1
reach the processes once, and they have --grace seconds to
save. A third Ctrl-C or signal kills them.
"""
_EXAMPLE: Final = "llamarec launch -- torchrun --nproc_per_node 2 train_ranker.py --resume_from_checkpoint"
_GRACE: Final = 600
_NAMES: Final = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK", "SIGUSR1")
# torchrun does not know it, and would end of it.
_AS_SIGTERM: Final = "SIGUSR1"
_PATIENCE: Final = 3
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LOOK_SECONDS: Final = 0.1
# On Windows a Ctrl-C is heard only between two waits.
_WAIT_SECONDS: Final = 1.0 if os.name == "nt" else 60.0
# torchrun's own variables.
_SECONDS: Final = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
_HANDLED: Final = "PET_SIGNALS_TO_HANDLE"
# Or processes that are started again find the addresses of those before them in the store, and fail or hang.
_OWN_STORE: Final = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
_ALL: Final = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "launch", SUMMARY, _EPILOG)
    parser.add_argument(
        "--grace", type=int, default=_GRACE, help=f"Seconds to save in, after a signal (default: {_GRACE})."
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="The launcher and all its words.")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the code of its processes."""
    if arguments.grace < 0:
        raise ConfigError(f"--grace {arguments.grace}: 0 or more seconds")
    given = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not given:
        raise ConfigError("llamarec launch: what is to be run?", hint=_EXAMPLE)

    words = [_found(given[0]), *given[1:]]
    with tempfile.TemporaryDirectory(prefix="llamarec-launch-") as folder:
        environment = {_SECONDS: str(arguments.grace), _HANDLED: _ALL, _OWN_STORE: "1", **os.environ, OUTCOMES: folder}
        launched = Launched(words, environment, arguments.grace, keeps=Path(folder))
        return outcome_in(Path(folder), launched.wait())


def _found(program: str) -> str:
    """Its path: on the PATH, or beside this Python, as where an environment is not activated."""
    beside = shutil.which(program, path=str(Path(sys.executable).parent))
    path = shutil.which(program) or beside
    if path is None:
        raise ConfigError(f"{program}: no such command", hint=_EXAMPLE)
    return path


class Launched:
    """A launcher that runs.

    In a session of its own: a terminal's Ctrl-C comes to this process only, which passes it on once.

    Args:
        words: Its command line.
        environment: Its environment.
        grace: Seconds for its processes to save in.
        keeps: A folder that looks as if it were just used, as long as it runs: systems empty /tmp of what is old.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], grace: int, *, keeps: Path) -> None:
        self._words, self._environment, self._grace, self._keeps = words, environment, grace, keeps
        self._process: subprocess.Popen[bytes] | None = None
        self._received: list[int] = []
        self._is_passed_on = False

    def wait(self) -> int:
        """Starts it, and waits for its end; returns its exit code, negative after a signal.

        A 1 after a signal that was passed on counts as the end by that signal: torchrun makes a 1 of it.
        """
        with self._signals_passed_on():
            self._process = subprocess.Popen(
                self._words,
                env=dict(self._environment),
                start_new_session=os.name != "nt",
                preexec_fn=_ends_with_parent() if sys.platform == "linux" else None,
            )
            if self._received:
                # While it was being started.
                self._answer()
            code = self._ended(self._process)
            if code < 0 and os.name != "nt":
                self._wait_for_orphans()
            return -self._received[0] if self._is_passed_on and code == EXIT_FAILED else code

    def _ended(self, process: subprocess.Popen[bytes]) -> int:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_WAIT_SECONDS)
            with contextlib.suppress(OSError):
                os.utime(self._keeps)

    def _wait_for_orphans(self) -> None:
        """Processes whose launcher was killed notice it, and save. On Linux they are now children of this one."""
        deadline = time.monotonic() + self._grace
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline and len(self._received) < _PATIENCE:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(_LOOK_SECONDS)

    @contextlib.contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        # nohup ignores SIGHUP, and means it.
        before = {one: signal.signal(one, self._pass_on) for one in numbers if signal.getsignal(one) != signal.SIG_IGN}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._received.append(number)
        if self._process is not None:
            self._answer()

    def _answer(self) -> None:
        process, number = self._process, self._received[0]
        if process is None or process.poll() is not None:
            return
        if len(self._received) >= _PATIENCE:
            _kill_all(process.pid)
        elif not self._is_passed_on and os.name != "nt":
            # On Windows the console has told all of its processes.
            self._is_passed_on = True
            name = signal.Signals(number).name
            process.send_signal(signal.SIGTERM if name == _AS_SIGTERM else number)
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                sys.stderr.write(f"\n{name}: passed on to {Path(self._words[0]).name}; its processes save, and end\n")


def _kill_all(pid: int) -> None:
    """Ends a launcher and what it has started, each in a session of its own, at once."""
    import psutil  # type: ignore[import-untyped]

    with contextlib.suppress(psutil.Error):
        launcher = psutil.Process(pid)
        for process in [launcher, *launcher.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _ends_with_parent() -> Callable[[], None]:
    """For a child of this process, before its program: if this one is killed, it is asked to stop. Linux."""
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()
    # What it leaves behind becomes a child of this process.
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask
