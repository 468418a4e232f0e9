"""Which faults of a save pass, and which would come again at every later one."""

from __future__ import annotations

import re
from typing import Final

from llamarec.checkpoints.storage.publish import NOT_AS_WRITTEN
from llamarec.errors import CheckpointError

# Torch and safetensors have errors of their own for a full disk.
_OF_DISK: Final = re.compile(
    rf"No space left|I/O error|os error \d+|iostream|PytorchStreamWriter|{re.escape(NOT_AS_WRITTEN)}"
)


class NotResumableError(CheckpointError):
    """A checkpoint that was written as it should be, and that no resume would take."""


def is_of_disk(error: BaseException) -> bool:
    """Whether the disk or the system failed a save, which may be over at the next one.

    >>> is_of_disk(OSError(28, "No space left on device")), is_of_disk(ValueError("not contiguous"))
    (True, False)
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError | MemoryError) or _OF_DISK.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__

    return False


def never_saved(step: int, error: Exception) -> CheckpointError:
    """The error that ends a training without a checkpoint, at its first save."""
    return CheckpointError(
        f"checkpoint-{step} could not be saved, and no later one could: training is stopped before it is lost",
        found=f"{type(error).__name__}: {error}",
        hint="change what is named; the plain Trainer's own save (save_strategy) may show the same",
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text; the name of its class where it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__
