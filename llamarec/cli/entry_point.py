"""How every command ends: a problem that the user can solve is said without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from llamarec.command import typed, with_flags
from llamarec.errors import EXIT_FINISHED, EXIT_KILLED, EXIT_USAGE, LlamarecError


def run_main(function: Callable[[], int], command: Sequence[str] = ()) -> int:
    """Runs a command's function; returns its exit code, or `EXIT_USAGE` after saying what is wrong.

    Args:
        function: The command.
        command: As the user typed it. If other flags would do, it is printed again with these.
    """
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a title must not end a training run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # Before torch is loaded: its threads wait for each other after every small product, by default in a busy loop.
    # Where anything else wants a core that makes small products ten times slower and more; asleep they take up to
    # twice as long on an idle machine (docs/decisions/0006-speed.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
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
        # A process that torchrun started was not typed.
        if command and error.retry_with and "RANK" not in os.environ:
            print(f"  type:     {typed(with_flags(command, error.retry_with))}", file=sys.stderr)
        return EXIT_USAGE
