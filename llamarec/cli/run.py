"""How every command ends: a problem that the user can solve is said without a traceback."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from llamarec.errors import EXIT_FINISHED, EXIT_KILLED, EXIT_USAGE, LlamarecError


def run_main(function: Callable[[], int]) -> int:
    """Runs a command's function; returns its exit code, or `EXIT_USAGE` after saying what is wrong."""
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a title must not end a training run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # About a faster kernel that is not installed; a stack of such notes hides what is said to the user.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return function()
    except BrokenPipeError:
        # Whoever reads this has seen enough (`| head`); there is nowhere left to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FINISHED
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return EXIT_KILLED
    except LlamarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
