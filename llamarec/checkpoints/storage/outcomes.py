"""Exit codes of the processes of one training, for a launcher that does not pass them on. Standard library only.

torchrun ends with 1 whatever its processes end with. `llamarec launch` gives them a folder, in which each notes its
code; the most telling one becomes that of the job.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.entries import read_bytes
from llamarec.errors import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
    EXIT_KILLED,
    EXIT_SAVE_FAILED,
    EXIT_USAGE,
    LlamarecError,
)

OUTCOMES: Final = "LLAMAREC_OUTCOMES"
"""Environment variable: the folder for the codes."""

# The nearest launcher first: mpirun in a job of Slurm has the number of the job's one task in all of its processes.
_RANKS: Final = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_RESTARTS: Final = "TORCHELASTIC_RESTART_COUNT"
_NAME: Final = re.compile(r"(?P<attempt>[0-9]{1,9})-(?P<rank>[0-9]{1,9})")
_CODE: Final = re.compile(r"-?[0-9]{1,9}")
# What one process says first; the others often end because it did.
_BY_WEIGHT: Final = (EXIT_FAILED, EXIT_USAGE, EXIT_KILLED, EXIT_SAVE_FAILED, EXIT_INTERRUPTED)
_SIGNALS_FROM: Final = 128
_MAX_BYTES: Final = 100


def code_of(error: BaseException) -> int:
    """The exit code of a program that an exception ends.

    >>> code_of(SystemExit(75)), code_of(SystemExit()), code_of(KeyboardInterrupt()), code_of(ValueError())
    (75, 0, 130, 1)
    """
    if isinstance(error, LlamarecError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return EXIT_KILLED
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or EXIT_FINISHED
    return EXIT_FAILED


@contextlib.contextmanager
def exception_noted() -> Iterator[None]:
    """Within, an exception's exit code is noted, if the launcher gave a folder for it."""
    try:
        yield
    except BaseException as error:
        note_outcome(code_of(error))
        raise


def note_outcome(code: int) -> None:
    """Notes this process's exit code; a later note replaces it. Does nothing without `OUTCOMES`."""
    folder = os.environ.get(OUTCOMES)
    if not folder:
        return

    rank = next((os.environ[name] for name in _RANKS if name in os.environ), "0")
    with contextlib.suppress(OSError):
        durable.write_note(Path(folder) / f"{os.environ.get(_RESTARTS, '0')}-{rank}", str(code).encode())


def outcome_in(folder: Path, launcher: int) -> int:
    """The exit code of a job; its launcher's own where no process has noted one, or the folder is gone.

    Args:
        folder: Where its processes noted theirs.
        launcher: The launcher's own code; negative after a signal.
    """
    if launcher == EXIT_FINISHED:
        # No process has ended with another code.
        return EXIT_FINISHED

    noted = _noted(folder)
    last = max((attempt for attempt, _ in noted), default=0)
    codes = {code for attempt, code in noted if attempt == last and code != EXIT_FINISHED}
    if codes:
        return next((code for code in _BY_WEIGHT if code in codes), max(codes))
    return launcher if launcher > 0 else _SIGNALS_FROM - launcher


def is_unfinished(code: int) -> bool:
    """Whether the same command goes on after a job with this exit code: it was stopped, or killed without a word."""
    return code == EXIT_INTERRUPTED or (code > _SIGNALS_FROM and code != EXIT_KILLED)


def _noted(folder: Path) -> list[tuple[int, int]]:
    """Attempts of the launcher, and codes."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            name, text = _NAME.fullmatch(path.name), _text_of(path)
            if name and _CODE.fullmatch(text):
                found.append((int(name["attempt"]), int(text)))
    return found


def _text_of(path: Path) -> str:
    try:
        return read_bytes(path, _MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
