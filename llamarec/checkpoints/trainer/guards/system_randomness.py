"""Random bytes of the operating system in a training step: no checkpoint holds them, and no resume repeats them."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from llamarec.checkpoints.trainer.samples.object_parts import is_program_module


class SystemRandomness:
    """Names the line of a program's model or loss that asks for them, once.

    `os.urandom`, `uuid.uuid4`, `secrets`, `random.SystemRandom` and an unseeded `numpy.random.default_rng()` come by
    here. What libraries ask for, for the name of a file, is their own.

    Args:
        warn: Shows a line to the user.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn, self._is_said = warn, False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While gradients are computed."""
        if self._is_said:
            yield
            return

        # Python's own modules hold the function under these two names.
        before = os.urandom, random._urandom  # type: ignore[attr-defined]
        os.urandom = random._urandom = self._counted(before[0])  # type: ignore[attr-defined]
        try:
            yield
        finally:
            os.urandom, random._urandom = before  # type: ignore[attr-defined]

    def _counted(self, urandom: Callable[[int], bytes]) -> Callable[[int], bytes]:
        def counted(size: int, /) -> bytes:
            if not self._is_said and (frame := _program_frame(sys._getframe(1))) is not None:
                self._is_said = True
                self._warn(
                    f"WARNING: {frame.f_code.co_filename}, line {frame.f_lineno} asks the operating system for random "
                    "bytes in a training step, which no resume can repeat: the resumed model will be another one. Draw "
                    "from random, numpy.random or torch there"
                )
            return urandom(size)

        return counted


def _program_frame(frame: FrameType | None) -> FrameType | None:
    """The caller, behind Python's own code and numpy's; None where it is another library's."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if is_program_module(name):
            return frame
        if name.partition(".")[0] not in (*sys.stdlib_module_names, "numpy"):
            return None

        frame = frame.f_back
    return None
