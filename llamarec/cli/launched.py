"""A launcher that runs, and the signals that are passed on to it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from llamarec.errors import EXIT_FAILED

_NAMES: Final = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK", "SIGUSR1")
# torchrun does not know it, and would end of it.
_AS_SIGTERM: Final = "SIGUSR1"
_PATIENCE: Final = 3
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LOOK_SECONDS: Final = 0.1
# On Windows a Ctrl-C is heard only between two waits.
_WAIT_SECONDS: Final = 1.0 if os.name == "nt" else 60.0


class Signals:
    """Signals to this process, passed on to the launcher that runs. A context manager.

    Attributes:
        received: Their numbers, in order.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._answer: Callable[[], None] = lambda: None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        # nohup ignores SIGHUP, and means it.
        numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def tell(self, answer: Callable[[], None]) -> None:
        """Has `answer` called at each signal, and now if there was one."""
        self._answer = answer
        if self.received:
            answer()

    def wait(self, seconds: float) -> bool:
        """Waits so long, at most until a signal; returns whether there was one."""
        deadline = time.monotonic() + seconds
        while not self.received and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        return bool(self.received)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received.append(number)
        self._answer()


class Launched:
    """A launcher that runs.

    In a session of its own: a terminal's Ctrl-C comes to this process only, which passes it on once.

    Args:
        words: Its command line.
        environment: Its environment.
        grace: Seconds for its processes to save in.
        signals: To this process.
        keeps: A folder that looks as if it were just used, as long as it runs: systems empty /tmp of what is old.
    """

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], grace: int, signals: Signals, *, keeps: Path
    ) -> None:
        self._program, self._grace, self._signals, self._keeps = Path(words[0]).name, grace, signals, keeps
        self._is_passed_on = False
        self._process = subprocess.Popen(
            words,
            env=dict(environment),
            start_new_session=os.name != "nt",
            preexec_fn=_ends_with_parent() if sys.platform == "linux" else None,
        )
        signals.tell(self._answer)

    def wait(self) -> int:
        """Waits for its end; returns its exit code, negative after a signal.

        A 1 after a signal that was passed on counts as the end by that signal: torchrun makes a 1 of it.
        """
        code = self._ended()
        if code < 0 and os.name != "nt":
            self._wait_for_orphans()
        return -self._signals.received[0] if self._is_passed_on and code == EXIT_FAILED else code

    def _ended(self) -> int:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(_WAIT_SECONDS)
            with contextlib.suppress(OSError):
                os.utime(self._keeps)

    def _wait_for_orphans(self) -> None:
        """Processes whose launcher was killed notice it, and save. On Linux they are now children of this one."""
        deadline = time.monotonic() + self._grace
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline and len(self._signals.received) < _PATIENCE:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(_LOOK_SECONDS)

    def _answer(self) -> None:
        received, process = self._signals.received, self._process
        if process.poll() is not None:
            return
        if len(received) >= _PATIENCE:
            _kill_all(process.pid)
        elif not self._is_passed_on and os.name != "nt":
            # On Windows the console has told all of its processes.
            self._is_passed_on = True
            name = signal.Signals(received[0]).name
            process.send_signal(signal.SIGTERM if name == _AS_SIGTERM else received[0])
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                sys.stderr.write(f"\n{name}: passed on to {self._program}; its processes save, and end\n")


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
