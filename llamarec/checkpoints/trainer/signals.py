"""Requests to stop: SIGTERM, Ctrl-C, a closed terminal (SIGHUP), on Windows Ctrl-Break and a closed console.

A handler only takes note; the training loop stops at the next step boundary. The second request changes nothing, the
third ends the process at once (which is safe at any moment, but loses what was not saved).
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final, TypeAlias

from llamarec.errors import EXIT_INTERRUPTED

CONSOLE_ENDS: Final = {2: "CTRL_CLOSE_EVENT", 5: "CTRL_LOGOFF_EVENT", 6: "CTRL_SHUTDOWN_EVENT"}
_CONSOLE_SECONDS: Final = 30.0
NAMES: Final = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")
_PATIENCE: Final = 3

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
    """Notes signals while training runs.

    Attributes:
        received: Name of the first signal, or an empty text.
    """

    def __init__(self) -> None:
        self.received = ""
        self._count = 0
        self._before: dict[signal.Signals, Handler] = {}
        self._done = threading.Event()
        self._console_handler: object = None

    def end_a_step(self, num_processes: int) -> bool:
        """Whether to give up inside a step: one process alone may; several agree at the next boundary."""
        return bool(self.received) and num_processes == 1

    def waits_for_vote(self, num_processes: int) -> bool:
        """Whether several processes are to give up inside a step, once all of them know."""
        return bool(self.received) and num_processes > 1

    def note(self, number: int, _: FrameType | None = None) -> None:
        """The handler."""
        self._count += 1
        name = signal.Signals(number).name
        self.received = self.received or name

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

        self.received, self._count = "", 0
        for name in NAMES:
            number = getattr(signal, name, None)
            # nohup ignores SIGHUP, and means it.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
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
        self.received = self.received or CONSOLE_ENDS[event]
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
