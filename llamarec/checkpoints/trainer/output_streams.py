"""Streams whose failures end nothing: a closed pipe, a full disk under a log, a terminal that is gone.

Standard library only.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO, cast


class LossyStream:
    """A text stream that drops what cannot be written; everything else is the stream's own.

    Args:
        stream: Standard output or standard error.
        name: For the line about it.
        other: Where that line goes, once.
    """

    def __init__(self, stream: TextIO, name: str, other: TextIO | None) -> None:
        self._stream, self._name, self._other = stream, name, other
        self._has_failed = False

    def write(self, text: str) -> int:
        """Writes, or drops; returns the length of the text."""
        try:
            self._stream.write(text)
        except (OSError, ValueError) as error:
            self._say(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """As `write`."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Flushes, or drops."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._say(error)

    def _say(self, error: Exception) -> None:
        if self._has_failed:
            return

        self._has_failed = True
        if self._other is not None:
            with contextlib.suppress(OSError, ValueError):
                why = (isinstance(error, OSError) and error.strerror) or error
                self._other.write(f"\n{self._name} cannot be written ({why}); training continues without it\n")
                self._other.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)


def make_lossy() -> None:
    """From now on, standard output and standard error of this process are lossy; also at the interpreter's end."""
    sys.stdout, sys.stderr = _lossy(sys.stdout, sys.stderr)


@contextlib.contextmanager
def lossy() -> Iterator[None]:
    """Within, standard output and standard error are lossy; afterwards they are those of before.

    What was put in their place meanwhile stays.
    """
    before = sys.stdout, sys.stderr
    within = sys.stdout, sys.stderr = _lossy(*before)
    try:
        yield
    finally:
        if sys.stdout is within[0]:
            sys.stdout = before[0]
        if sys.stderr is within[1]:
            sys.stderr = before[1]


def _lossy(out: TextIO, err: TextIO) -> tuple[TextIO, TextIO]:
    # None where a program has no console; a lossy one stays what it is.
    return _one(out, "standard output", err), _one(err, "standard error", out)


def _one(stream: TextIO, name: str, other: TextIO) -> TextIO:
    if stream is None or isinstance(stream, LossyStream):
        return stream

    return cast(TextIO, LossyStream(stream, name, other))
