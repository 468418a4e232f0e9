"""One exchange between all processes: each gives the name of its operation and a value, and gets those of all.

It runs on a group of its own, on the CPU: it never waits for an accelerator, and a library's collective is never taken
for ours. The name is compared in every process, so that all of them learn which operations did not meet.
"""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from transformers import TrainingArguments

from llamarec.errors import EXIT_INTERRUPTED, DisagreementError, PeerLostError

T = TypeVar("T")

# What nearly every message fits into, with its length in front: one collective instead of two.
_ROOM: Final = 1024
_LENGTH: Final = 8
# In the text of a plain RuntimeError.
_OF_BACKENDS: Final = ("gloo/transport", "Connection closed by peer")
_GROUPS: Final[weakref.WeakKeyDictionary[Any, dist.ProcessGroup | None]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Ending:
    """The value of a process that has come to the end of its training while others may be elsewhere.

    Attributes:
        why: In one line.
        step: Done by this process.
        code: Exit code with which it ends.
    """

    why: str
    step: int
    code: int = EXIT_INTERRUPTED


class PeerEndedError(DisagreementError):
    """Another process ends this training.

    Args:
        endings: By rank, what those said that end it.

    Attributes:
        endings: Likewise.
    """

    def __init__(self, endings: Mapping[int, Ending]) -> None:
        rank, ending = next(iter(endings.items()))
        # The job ends as that process does, on every node.
        self.exit_code = ending.code
        super().__init__(
            f"rank {rank} ended this training after step {ending.step:,}",
            found=[f"rank {number}: {one.why}" for number, one in endings.items()],
            hint=f"see the message of rank {rank}",
        )
        self.endings = dict(endings)


def exchange(args: TrainingArguments, operation: str, value: T, *, seconds: float | None = None) -> list[T]:
    """Every process's value, by rank.

    Args:
        args: Say how many processes there are, and how long one waits for another (`ddp_timeout`).
        operation: What the processes have come to, as messages name it.
        value: Of this process; pickled.
        seconds: To wait, where that is shorter.

    Raises:
        PeerEndedError: another process ends its training, and this one does not.
        DisagreementError: the processes have come to different operations; names them.
        PeerLostError: one has not come in time, or is gone.
    """
    if args.world_size == 1:
        return [value]

    try:
        messages = _gathered(args, pickle.dumps((operation, value)), seconds)
    except RuntimeError as error:
        raise _lost(args, operation, error) from error

    found: list[tuple[str, T]] = [pickle.loads(message) for message in messages]  # noqa: S301 - of this very training
    if not isinstance(value, Ending):
        _check_same_operation(found)
    return [theirs for _, theirs in found]


def _check_same_operation(found: list[tuple[str, T]]) -> None:
    names = [name for name, _ in found]
    endings = {rank: value for rank, (_, value) in enumerate(found) if isinstance(value, Ending)}
    if endings:
        raise PeerEndedError(endings)
    if len(set(names)) == 1:
        return

    raise DisagreementError(
        "the processes of this training have come to different operations",
        expected="the same operations in the same order in all of them",
        found=_by_value(names),
        hint="look for callbacks and overrides that train, evaluate or save in some processes only",
    )


def _by_value(names: list[str]) -> list[str]:
    """One line for each operation, with the ranks that have come to it."""
    by_name: dict[str, list[int]] = {}
    for rank, name in enumerate(names):
        by_name.setdefault(name, []).append(rank)
    return [f"{named_ranks(ranks)}: {name}" for name, ranks in by_name.items()]


def named_ranks(ranks: list[int]) -> str:
    """Ranks in a message.

    >>> named_ranks([0]), named_ranks([0, 1, 2, 5]), named_ranks(list(range(64)))
    ('rank 0', 'ranks 0-2, 5', 'ranks 0-63')
    """
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])

    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(texts)}"


# ---- The collective ----


def _gathered(args: TrainingArguments, message: bytes, seconds: float | None) -> list[bytes]:
    length = len(message).to_bytes(_LENGTH, "little")
    head = length + message[: _ROOM - _LENGTH]
    heads = _all_gather(args, head.ljust(_ROOM, b"\0"), seconds)

    lengths = [int.from_bytes(one[:_LENGTH], "little") for one in heads]
    longest = max(lengths)
    if longest <= _ROOM - _LENGTH:
        return [one[_LENGTH : _LENGTH + size] for one, size in zip(heads, lengths, strict=True)]

    wholes = _all_gather(args, message.ljust(longest, b"\0"), seconds)
    return [one[:size] for one, size in zip(wholes, lengths, strict=True)]


def _all_gather(args: TrainingArguments, content: bytes, seconds: float | None) -> list[bytes]:
    group = _group(args)
    # Without gloo, on the training's own group.
    device = torch.device("cpu") if group is not None else args.device
    own = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
    found = [torch.empty_like(own) for _ in range(args.world_size)]

    work = dist.all_gather(found, own, group=group, async_op=True)
    if work is not None:
        work.wait(*([timedelta(seconds=seconds)] if seconds is not None else []))
    return [one.cpu().numpy().tobytes() for one in found]


def _group(args: TrainingArguments) -> dist.ProcessGroup | None:
    """The group for exchanges, made at the first one; None where gloo is missing."""
    world = dist.group.WORLD
    if world not in _GROUPS:
        apply_timeout(args)
        wait = timedelta(seconds=args.ddp_timeout)
        _GROUPS[world] = dist.new_group(backend="gloo", timeout=wait) if dist.is_gloo_available() else None
    return _GROUPS[world]


def apply_timeout(args: TrainingArguments) -> None:
    """Makes `ddp_timeout` that of the training's own group: the Trainer passes it on for accelerators only."""
    if args.world_size > 1:
        # Not public in torch; without it, its default stays.
        apply = getattr(dist.distributed_c10d, "_set_pg_timeout", None)
        if apply is not None:
            apply(timedelta(seconds=args.ddp_timeout))


def lost_in(args: TrainingArguments, error: BaseException) -> PeerLostError | None:
    """The error for another process that was lost in a library's collective; None for any other error."""
    if args.world_size == 1 or not isinstance(error, RuntimeError):
        return None

    is_of_backend = isinstance(error, dist.DistError) or any(word in str(error) for word in _OF_BACKENDS)
    return _lost(args, "a collective of this step", error) if is_of_backend else None


def _lost(args: TrainingArguments, operation: str, error: RuntimeError) -> PeerLostError:
    return PeerLostError(
        f"rank {args.process_index} has lost another process of this training at: {operation}",
        expected=f"all {args.world_size} processes, within --ddp_timeout {args.ddp_timeout} seconds",
        found=str(error).partition("\n")[0],
        hint="the newest checkpoint is good: the same command with --resume_from_checkpoint",
    )
