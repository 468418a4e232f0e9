"""A process that ends in a training tells the others, wherever they are, and all save together what they can."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from transformers import TrainingArguments

from llamarec.checkpoints.storage.outcomes import code_of
from llamarec.checkpoints.trainer.distributed.channel import Ending, PeerEndedError, exchange
from llamarec.errors import EXIT_INTERRUPTED, PeerLostError

# Others may be in the middle of a long micro-batch; one that waits in a collective of a library never comes.
_PATIENCE_SECONDS: Final = 60.0
_END: Final = "the end of the training"


def tell(args: TrainingArguments, error: BaseException, step: int) -> bool:
    """Tells all other processes that this one ends.

    Args:
        args: Say how many there are.
        error: Why it ends.
        step: Done.

    Returns:
        Whether they know, and end too.
    """
    if args.world_size == 1 or isinstance(error, PeerEndedError):
        return True
    if isinstance(error, PeerLostError):
        return False

    text = str(error).partition("\n")[0]
    why = f"{type(error).__name__}: {text}" if text else type(error).__name__
    # sys.exit() in a callback: the training is not at its end.
    ending = Ending(why, step, code_of(error) or EXIT_INTERRUPTED)
    try:
        exchange(args, _END, ending, seconds=min(_PATIENCE_SECONDS, args.ddp_timeout))
    except PeerLostError:
        return False

    return True


@contextlib.contextmanager
def told(args: TrainingArguments) -> Iterator[None]:
    """Within, before the first step, an error in one process is told to all."""
    try:
        yield
    except Exception as error:
        tell(args, error, 0)
        raise


def can_all_save(args: TrainingArguments, boundary: tuple[object, ...] | None) -> bool:
    """After all know of an end: whether they are at one boundary, and can save it.

    Args:
        args: Say how many there are.
        boundary: What tells this process's last one from others; None where it cannot be saved.
    """
    try:
        found = exchange(args, "the boundary to save", boundary, seconds=min(_PATIENCE_SECONDS, args.ddp_timeout))
    except PeerLostError:
        return False

    return found[0] is not None and all(one == found[0] for one in found)
