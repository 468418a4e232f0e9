"""The frame of every command: exit codes, and problems that the user can solve without a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llamarec.checkpoints.storage.os_errors import advice
from llamarec.checkpoints.storage.outcomes import exception_noted, note_outcome
from llamarec.checkpoints.trainer.output_streams import make_lossy
from llamarec.command import typed, with_flags
from llamarec.errors import EXIT_FINISHED, EXIT_KILLED, EXIT_USAGE, ConfigError, LlamarecError
from llamarec.requirements import extras_with, install_line


def run_main(function: Callable[[], int], command: Sequence[str] = (), *, trains: bool = False) -> int:
    """Runs a command and returns its exit code: `EXIT_USAGE` after an error that the user can solve.

    Args:
        function: The command.
        command: The words that the user typed. If the same command works with other flags, it is printed with them.
        trains: Its work is not what it prints: it goes on where nothing can be printed any more.
    """
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a title must not end a training run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if trains:
        make_lossy()

    # Must be set before torch is loaded. By default its threads wait for each other in a busy loop after every small
    # matrix product. That is more than ten times slower as soon as another process wants a core; sleeping threads
    # take at most twice as long on an idle machine (docs/decisions/0006-speed.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    with exception_noted():
        code = _ended(function, command)
    # A launcher may not pass it on.
    note_outcome(code)
    return code


def _ended(function: Callable[[], int], command: Sequence[str]) -> int:
    try:
        return _flushed(_code_of(function, command))
    except SystemExit as end:
        # After --help, for one.
        if not end.code and _flushed(EXIT_FINISHED) != EXIT_FINISHED:
            return EXIT_USAGE
        raise


def _code_of(function: Callable[[], int], command: Sequence[str]) -> int:
    try:
        return function()
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`), so nothing more can be written.
        _discard_output()
        return EXIT_FINISHED
    except KeyboardInterrupt:
        _say("\ninterrupted")
        return EXIT_KILLED
    except LlamarecError as error:
        _say(f"error: {error}")
        # The user did not type the command of a process that torchrun started.
        if command and error.retry_with and "RANK" not in os.environ:
            _say(f"  type:     {typed(with_flags(command, error.retry_with))}")
        return error.exit_code
    except OSError as error:
        _say(f"error: {os_error(error)}")
        return EXIT_USAGE
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        _say(f"error: {missing}")
        return EXIT_USAGE


def _flushed(code: int) -> int:
    """The exit code, once everything is written: the interpreter would do it later, and change the code to 120."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except (OSError, ValueError) as error:
        _discard_output()
        if code == EXIT_FINISHED:
            _say(f"error: standard output cannot be written: {getattr(error, 'strerror', None) or error}")
            return EXIT_USAGE

    return code


def _discard_output() -> None:
    """What standard output still holds, and all that follows, goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


def _say(text: str) -> None:
    """A line on standard error, unless that is gone too."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


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
