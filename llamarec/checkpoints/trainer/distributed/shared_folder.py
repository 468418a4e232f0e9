"""One run folder for all processes, on whatever node they are."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Final

from transformers import TrainingArguments

from llamarec.checkpoints.storage.entries import read_bytes
from llamarec.checkpoints.storage.layout import RunFolder, max_bytes_of
from llamarec.checkpoints.trainer.distributed.agreement import from_first_process
from llamarec.checkpoints.trainer.distributed.channel import exchange, named_ranks
from llamarec.errors import DisagreementError

# A network file system may show a new file this late.
_LOOKS_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.1


def check_same_folder(args: TrainingArguments, run: RunFolder) -> None:
    """Refuses processes that do not see the first one's run folder: each node would have another run.

    Args:
        args: Say how many processes there are.
        run: Locked by the first process, which has written its name beside the lock.

    Raises:
        DisagreementError: names the ranks, with host and path.
    """
    if args.world_size == 1:
        return

    note = from_first_process(args, "the run's folder", _content(run.holder))
    sees = note is None or args.process_index == 0 or _appears(run.holder, note)
    found = exchange(args, "who sees the run's folder", (sees, _where(run)))
    without = [rank for rank, (one, _) in enumerate(found) if not one]
    if not without:
        return

    raise DisagreementError(
        f"{named_ranks(without)} cannot see the run's folder of rank 0",
        expected="one folder that all nodes share: checkpoints, the best model and the data are read by every process",
        found=[f"rank 0: {found[0][1]}", f"rank {without[0]}: {found[without[0]][1]}"],
        hint="--output_dir (and --experiment_root) on a file system that every node mounts, the same in all processes",
    )


def _content(path: Path) -> bytes | None:
    try:
        return read_bytes(path, max_bytes_of(path.name))
    except OSError:
        return None


def _appears(path: Path, content: bytes) -> bool:
    deadline = time.monotonic() + _LOOKS_SECONDS
    while _content(path) != content:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _where(run: RunFolder) -> str:
    return f"{run.path.absolute()} on {platform.node()}"
