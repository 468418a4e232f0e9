"""Requests to stop: SIGTERM, SIGINT (Ctrl-C), on Windows Ctrl-Break and the closing of the console.

A handler only takes note; the training loop stops at the next edge of a step. The second request changes nothing, the
third ends the process at once (which is safe at any moment, but loses what was not saved).
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from llamarec.errors import EXIT_INTERRUPTED

NAMES: Final = ("SIGTERM", "SIGINT", "SIGBREAK")
_PATIENCE: Final = 3


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


class StopRequests:
    """Notes signals while training runs.

    Attributes:
        received: Name of the first signal, or an empty text.
    """

    def __init__(self) -> None:
        self.received = ""
        self._count = 0
        self._before: dict[signal.Signals, Any] = {}

    def note(self, number: int, _: FrameType | None = None) -> None:
        """The handler."""
        self._count += 1
        name = signal.Signals(number).name
        self.received = self.received or name
        if self._count >= _PATIENCE:
            self.restore()
            # Not sys.exit: a handler may interrupt any line, and nothing may go on from here.
            raise KeyboardInterrupt(f"{name}, the third request to stop")
        text = "stopping at the edge of this step, then saving" if self._count == 1 else "still saving"
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            sys.stderr.write(
                f"\n{name}: {text} (once more to end at once)\n" if self._count > 1 else f"\n{name}: {text}\n"
            )

    def install(self) -> None:
        """Takes the signals over; in another thread than the main one Python has none, and nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in NAMES:
            number = getattr(signal, name, None)
            if number is not None:
                self._before[number] = signal.signal(number, self.note)

    def restore(self) -> None:
        """Gives the signals back to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    @contextlib.contextmanager
    def watched(self) -> Iterator[StopRequests]:
        """Installed within, restored after."""
        self.install()
        try:
            yield self
        finally:
            self.restore()
