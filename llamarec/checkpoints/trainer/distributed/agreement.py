"""Values on which all processes agree: any process's, the first one's, everybody's, or equal ones."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Mapping
from typing import Final, TypeVar, cast

from transformers import TrainingArguments

from llamarec.checkpoints.trainer.distributed.channel import exchange, named_ranks
from llamarec.errors import CheckpointError, DisagreementError, Lines

T = TypeVar("T")

_SHOWN: Final = 5
_WIDTH: Final = 100


def any_process(args: TrainingArguments, operation: str, *flags: bool) -> list[bool]:
    """For each flag, whether it is set in any process."""
    return [any(votes) for votes in zip(*exchange(args, operation, flags), strict=True)]


def most_in_any_process(args: TrainingArguments, operation: str, count: int) -> int:
    """The largest count of all processes."""
    return max(exchange(args, operation, count))


def from_first_process(args: TrainingArguments, operation: str, value: T) -> T:
    """The first process's value, in all of them; they wait for it."""
    if args.world_size == 1:
        return value

    # What the others have is not sent.
    values: list[T] = exchange(args, operation, cast(T, value if args.process_index == 0 else None))
    return values[0]


def in_first_process(args: TrainingArguments, operation: str, action: Callable[[], object]) -> None:
    """Runs an action in the first process only; the others wait for it.

    Raises:
        Exception: what the action raised, with its class, in every process.
    """
    error: Exception | None = None
    if args.process_index == 0:
        try:
            action()
        except Exception as found:
            error = found

    shared = exchange(args, operation, _portable(error))[0]
    if error or shared:
        raise error or shared  # type: ignore[misc]  # one of them is an error


def check_equal(args: TrainingArguments, operation: str, values: Mapping[str, object], *, hint: Lines = None) -> None:
    """Refuses processes that differ in what they must have in common.

    Args:
        args: Say how many processes there are.
        operation: What the values belong to, as messages name it.
        values: By name, plain ones.
        hint: What to do where they differ.

    Raises:
        DisagreementError: names what differs, with the values and the ranks that have them.
    """
    found = exchange(args, operation, dict(values))
    names = list(dict.fromkeys(name for one in found for name in one))
    texts = {name: [_text(one[name]) if name in one else "nothing" for one in found] for name in names}
    differing = [name for name in names if len(set(texts[name])) > 1]
    if not differing:
        return

    more = len(differing) - _SHOWN
    raise DisagreementError(
        f"the processes of this training differ in {', '.join(differing[:_SHOWN])}"
        + (f" and {more} more" if more > 0 else ""),
        expected=f"equal values in all of them: {operation}",
        found=[line for name in differing[:_SHOWN] for line in _lines(name, texts[name])],
        hint=hint or "start every process with the same command, data, files and versions",
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _lines(name: str, texts: list[str]) -> list[str]:
    ranks: dict[str, list[int]] = {}
    for rank, text in enumerate(texts):
        ranks.setdefault(text, []).append(rank)
    return [f"{name} of {named_ranks(those)}: {_shortened(text)}" for text, those in ranks.items()]


def _shortened(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def _portable(error: Exception | None) -> Exception | None:
    """The error as other processes can unpickle it; one of a local class becomes a `CheckpointError` with its text."""
    if error is None:
        return None

    with contextlib.suppress(Exception):
        if type(pickle.loads(pickle.dumps(error))) is type(error):  # noqa: S301 - it has just been pickled here
            return error

    return CheckpointError(f"{type(error).__name__}: {error}")
