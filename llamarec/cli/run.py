"""How every command ends: a problem that the user can solve is said without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from llamarec.errors import EXIT_USAGE, LlamarecError


def run_main(function: Callable[[], int]) -> int:
    """Runs a command's function; returns its exit code, or `EXIT_USAGE` after saying what is wrong."""
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a title must not end a training run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        return function()
    except LlamarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
