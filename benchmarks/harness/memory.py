"""Peak of this process's resident memory while something runs."""

from __future__ import annotations

import threading
from typing import Final

import psutil  # type: ignore[import-untyped]

_SECONDS: Final = 0.002


class Peak(threading.Thread):
    """Watches as a context; `extra` is the peak above what was resident at its beginning, in bytes.

    Args:
        own: Leave out pages of files, which the system takes back when it needs room.
    """

    def __init__(self, *, own: bool = False) -> None:
        super().__init__(daemon=True)
        self._own = own
        self.before = self.value = _resident(own)
        self._ends = threading.Event()

    def run(self) -> None:
        """Until the context ends."""
        while not self._ends.wait(_SECONDS):
            self.value = max(self.value, _resident(self._own))

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
        self.value = max(self.value, _resident(self._own))


def _resident(own: bool) -> int:
    memory = psutil.Process().memory_info()
    return int(memory.rss) - (int(getattr(memory, "shared", 0)) if own else 0)
