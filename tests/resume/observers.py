"""Observers of the effects on the disk: they kill, count or record; see `llamarec.checkpoints.storage.durable`.

Nothing here, nor in the scripted kinds of torture, imports torch: a process without it forks many times faster.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamarec.checkpoints.storage import durable, space
from llamarec.checkpoints.trainer.saves import writer


class KillAt:
    """Ends this process by SIGKILL at the n-th effect, counted from 0."""

    def __init__(self, number: int) -> None:
        self._number, self._lock = number, threading.Lock()

    def __call__(self, effect: str, path: Path) -> None:
        with self._lock:
            if self._number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._number -= 1


class Recording:
    """Writes down what it is told.

    Attributes:
        effects: (effect, name of the file) in their order.
    """

    def __init__(self) -> None:
        self.effects: list[tuple[str, str]] = []

    def __call__(self, effect: str, path: Path) -> None:
        self.effects.append((effect, path.name))


class FailAt:
    """Raises an error of the operating system from the n-th effect on, counted from 0.

    Args:
        number: Of the first effect that fails.
        how_many: Effects fail, from there on.
        code: Of the error, as in `errno`.
        spares: Effects that do not fail and do not count as one of the many: a full disk lets delete.
        also: Number of one more effect that fails.

    Attributes:
        failed: The effects that did.
    """

    def __init__(
        self, number: int, how_many: float, code: int, spares: tuple[str, ...] = (), *, also: int | None = None
    ) -> None:
        self._first, self._left, self._code, self._spares, self._also = number, how_many, code, spares, also
        self._count = -1
        self.failed: list[str] = []

    def __call__(self, effect: str, path: Path) -> None:
        self._count += 1
        is_full = self._count >= self._first and self._left > 0
        if self._count == self._also or (is_full and effect not in self._spares):
            self._left -= is_full
            self.failed.append(f"{effect} {path.name}")
            raise OSError(self._code, os.strerror(self._code), str(path))


@contextlib.contextmanager
def room_is_not_asked_for() -> Iterator[None]:
    """Within, there seems to be room on the disk: as if somebody else filled it just after it was asked."""
    modules: list[Any] = [space, writer]
    before = [module.free_bytes for module in modules]
    for module in modules:
        module.free_bytes = lambda _: 2**40
    try:
        yield
    finally:
        for module, function in zip(modules, before, strict=True):
            module.free_bytes = function


@contextlib.contextmanager
def observed(observer: durable.Observer | None) -> Iterator[None]:
    """Within, the observer is told every effect."""
    before, durable.observer = durable.observer, observer
    try:
        yield
    finally:
        durable.observer = before


def without_most_writes(effects: list[tuple[str, str]], every: int) -> list[int]:
    """Numbers of effects: all, but of the many small writes one in `every`."""
    writes = [number for number, (effect, _) in enumerate(effects) if effect in ("write", "torn")]
    return sorted({*range(len(effects))} - {*writes} | {*writes[::every]})
