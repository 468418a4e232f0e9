"""Lines for the user, from the first of several processes only, without credentials. Standard library only."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass

from llamarec.credentials import without_credentials
from llamarec.errors import printable


@dataclass(frozen=True)
class Console:
    """Standard output and standard error of a training.

    Attributes:
        is_first_process: The others print nothing.
    """

    is_first_process: bool = True

    def print(self, line: str) -> None:
        """A line of the resume plan or the result, on standard output."""
        if self.is_first_process:
            # A pipe may be closed, or the log's disk full.
            with contextlib.suppress(OSError, ValueError):
                print(printable(without_credentials(line)), flush=True)

    def warn(self, text: str) -> None:
        """A line on standard error that a progress bar does not swallow."""
        if not self.is_first_process:
            return

        # The terminal may be gone (SIGHUP); that must not keep anything from being saved.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"\n{printable(without_credentials(text))}\n")
            sys.stderr.flush()
