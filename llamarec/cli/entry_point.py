"""The frame of every command: exit codes, and problems that the user can solve without a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llamarec.checkpoints.storage.os_errors import advice
from llamarec.command import typed, with_flags
from llamarec.errors import EXIT_FINISHED, EXIT_KILLED, EXIT_USAGE, ConfigError, LlamarecError
from llamarec.requirements import extras_with, install_line


def run_main(function: Callable[[], int], command: Sequence[str] = ()) -> int:
    """Runs a command and returns its exit code: `EXIT_USAGE` after an error that the user can solve.

    Args:
        function: The command.
        command: The words that the user typed. If the same command works with other flags, it is printed with them.
    """
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a title must not end a training run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    # Must be set before torch is loaded. By default its threads wait for each other in a busy loop after every small
    # matrix product. That is more than ten times slower as soon as another process wants a core; sleeping threads
    # take at most twice as long on an idle machine (docs/decisions/0006-speed.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    try:
        return function()
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`), so nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FINISHED
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return EXIT_KILLED
    except LlamarecError as error:
        print(f"error: {error}", file=sys.stderr)
        # The user did not type the command of a process that torchrun started.
        if command and error.retry_with and "RANK" not in os.environ:
            print(f"  type:     {typed(with_flags(command, error.retry_with))}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"error: {os_error(error)}", file=sys.stderr)
        return EXIT_USAGE
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        print(f"error: {missing}", file=sys.stderr)
        return EXIT_USAGE


def os_error(error: OSError) -> LlamarecError:
    """The error for a disk that is full, a folder that cannot be written, and whatever else the system refuses."""
    named = error.filename2 or error.filename
    path = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else None
    if path is None:
        return LlamarecError(str(error) or type(error).__name__)

    folder = path if path.is_dir() else path.parent
    hint = advice(error, folder, "another folder") if error.errno is not None else None
    return LlamarecError(f"{path}: {error.strerror or error}", hint=hint)


def missing_package(error: Exception) -> LlamarecError | None:
    """The error for a package that is not installed, with the command to type; None where it is no package of ours."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    extras = extras_with(name) if name else []
    if not extras:
        return None

    # The report needs what the ranker needs, and more: one command instead of two.
    needed_by = set(_words_of_modules(error))
    extra = next((extra for extra in extras if extra in needed_by), extras[0])
    return ConfigError(f"{name} is not installed", hint=install_line(extra))


def _words_of_modules(error: BaseException) -> Iterator[str]:
    """Of every module that was at work: "llamarec.cli.report" gives "cli" and "report"."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield from str(frame.f_globals.get("__name__", "")).split(".")[1:]
