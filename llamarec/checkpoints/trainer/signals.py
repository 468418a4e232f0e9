"""Requests to stop: SIGTERM, Ctrl-C, a closed terminal (SIGHUP), SIGUSR1, on Windows Ctrl-Break and a closed console.

A handler only takes note; the training loop stops at the next step boundary. The second request changes nothing, the
third ends the process at once (which is safe at any moment, but loses what was not saved).

A process that torchrun started has two more cases. One request may come several times: from the scheduler to each
process, and from torchrun once more. And where torchrun itself is killed, nobody else tells its processes to stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final, TypeAlias

from llamarec.checkpoints.storage.entries import read_bytes
from llamarec.errors import EXIT_INTERRUPTED

CONSOLE_ENDS: Final = {2: "CTRL_CLOSE_EVENT", 5: "CTRL_LOGOFF_EVENT", 6: "CTRL_SHUTDOWN_EVENT"}
_CONSOLE_SECONDS: Final = 30.0
# Slurm's --signal=USR1@120 comes before a time limit. Nobody handles it: it would end the process unsaved.
_WARNING: Final = "SIGUSR1"
NAMES: Final = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK", _WARNING)
_PATIENCE: Final = 3
# Signals of one request, which a launcher repeats.
_SAME_REQUEST_SECONDS: Final = 5.0
_LAUNCHED: Final = "TORCHELASTIC_RUN_ID"
_STATUS_BYTES: Final = 2**20
LAUNCHER_ENDED: Final = "the end of the launcher"

Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | None
"""What `signal.signal` takes and gives back."""


class Interrupted(SystemExit):
    """Training was stopped from outside, and is saved.

    A `SystemExit`, so that a script that does not catch it ends with `EXIT_INTERRUPTED` instead of going on as if
    training were done.

    Attributes:
        checkpoint: The folder to resume from, as text; empty if nothing could be saved.
        signal_name: What stopped it.
    """

    def __init__(self, checkpoint: str, signal_name: str, code: int = EXIT_INTERRUPTED) -> None:
        super().__init__(code)
        self.checkpoint, self.signal_name = checkpoint, signal_name


class StopNowError(Exception):
    """Raised inside a step or an evaluation that is given up for a request to stop."""


class EndNow(KeyboardInterrupt):
    """The third request to stop: training ends without waiting for anything, not even for a save being written."""


class StopRequests:
    """Notes signals while training runs."""

    def __init__(self) -> None:
        self._received = ""
        self._count, self._last = 0, -_SAME_REQUEST_SECONDS
        self._launcher: int | None = None
        self._before: dict[signal.Signals, Handler] = {}
        self._done = threading.Event()
        self._console_handler: object = None

    @property
    def received(self) -> str:
        """Name of the first signal, or an empty text."""
        if not self._received and self._launcher is not None and os.getppid() != self._launcher:
            self._received = LAUNCHER_ENDED
        return self._received

    def end_a_step(self, num_processes: int) -> bool:
        """Whether to give up inside a step: one process alone may; several agree at the next boundary."""
        return bool(self.received) and num_processes == 1

    def waits_for_vote(self, num_processes: int) -> bool:
        """Whether several processes are to give up inside a step, once all of them know."""
        return bool(self.received) and num_processes > 1

    def note(self, number: int, _: FrameType | None = None) -> None:
        """The handler."""
        now = time.monotonic()
        if self._launcher is not None and now - self._last < _SAME_REQUEST_SECONDS:
            return

        self._count, self._last = self._count + 1, now
        name = signal.Signals(number).name
        self._received = self._received or name

        if self._count >= _PATIENCE:
            self.uninstall()
            # Not sys.exit: a handler may interrupt any line, and nothing may run after this.
            raise EndNow(f"{name}, the third request to stop")

        first = self._count == 1
        text = "stopping after this step, then saving" if first else "still saving (once more to end at once)"
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            sys.stderr.write(f"\n{name}: {text}\n")

    def install(self) -> None:
        """Takes the signals over. Python delivers them to the main thread only; in another one nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            return

        self._received, self._count, self._last = "", 0, -_SAME_REQUEST_SECONDS
        self._launcher = os.getppid() if _LAUNCHED in os.environ and os.name != "nt" else None
        for name in NAMES:
            number = getattr(signal, name, None)
            if number is not None and _is_ours(number, name):
                self._before[number] = signal.signal(number, self.note)

        self._done.clear()
        if sys.platform == "win32":
            self._console_handler = watch_console(self.console_event)

    def uninstall(self) -> None:
        """Gives the signals back to their handlers of before."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

        self._done.set()
        if sys.platform == "win32" and self._console_handler is not None:
            unwatch_console(self._console_handler)
            self._console_handler = None

    def console_event(self, event: int) -> bool:
        """A Windows console's event, in a thread of its own; True = seen to.

        Closing the window, logging off and shutting down end the process as soon as this returns (or after some five
        seconds), so it returns when training is saved.
        """
        if event not in CONSOLE_ENDS:
            return False
        self._received = self._received or CONSOLE_ENDS[event]
        self._done.wait(_CONSOLE_SECONDS)
        return True

    @contextlib.contextmanager
    def watched(self) -> Iterator[StopRequests]:
        """Installed within, restored after."""
        self.install()
        try:
            yield self
        finally:
            self.uninstall()


def _is_ours(number: signal.Signals, name: str) -> bool:
    """Whether a signal asks for a stop here: nohup ignores SIGHUP, and a program may use SIGUSR1 for itself."""
    handler = signal.getsignal(number)
    if name != _WARNING:
        return handler is not signal.SIG_IGN
    return handler is signal.SIG_DFL and not _is_caught(number)


def _is_caught(number: int) -> bool:
    """Whether a library catches a signal without Python's knowledge, as `faulthandler.register` does; Linux tells."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = read_bytes(Path("/proc/self/status"), _STATUS_BYTES).decode(errors="replace").splitlines()
        caught = next(line for line in lines if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
    return False


if sys.platform == "win32":

    def watch_console(handler: Callable[[int], bool]) -> object:
        """Has Windows call a function at console events; returns what `unwatch_console` takes."""
        import ctypes

        callback = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)(lambda event: int(handler(event)))
        ctypes.windll.kernel32.SetConsoleCtrlHandler(callback, 1)
        # Kept by the caller: Windows calls into it as long as it is registered.
        return callback

    def unwatch_console(callback: object) -> None:
        """Ends it."""
        import ctypes

        ctypes.windll.kernel32.SetConsoleCtrlHandler(callback, 0)
