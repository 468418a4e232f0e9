"""Peak of this process's resident memory while something runs."""

from __future__ import annotations

import threading
from typing import Final

import psutil  # type: ignore[import-untyped]

_SECONDS: Final = 0.002


class Peak(threading.Thread):
    """Watches as a context; `extra` is the peak above what was resident at its beginning, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.value = _resident()
        self._ends = threading.Event()

    def run(self) -> None:
        """Until the context ends."""
        while not self._ends.wait(_SECONDS):
            self.value = max(self.value, _resident())

    @property
    def extra(self) -> int:
        """See the class."""
        return self.value - self.before

    def __enter__(self) -> Peak:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self.join()
        self.value = max(self.value, _resident())


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
