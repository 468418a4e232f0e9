"""Digests of the micro-batches trained on last: drawn again at a save and after a resume, they must be equal.

Data can keep a state that no walk finds, and change by it now and then. Drawn again, such a micro-batch is another one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
import torch

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.compatibility import SETS_ORDER
from llamarec.checkpoints.trainer.run_state import RunState, SeenBatch
from llamarec.checkpoints.trainer.samples.data_states import DataStates, digest_of_states
from llamarec.checkpoints.trainer.samples.sampling import Batch
from llamarec.checkpoints.trainer.state.plain_state import State
from llamarec.checkpoints.trainer.state.tensors import bytes_of
from llamarec.errors import CheckpointError, ConfigError

_KEPT: Final = 4
# A resume draws the newest again, and more of them while it takes no longer than this.
_SECONDS: Final = 5.0
# Of a larger tensor, values at equal distances.
_VALUES: Final = 2**18
_DIGITS: Final = 16

_ADVICE: Final = [
    "if a callback moves the data on (set_epoch), give them state_dict() and load_state_dict(), and pass them:",
    'stateful={"data": dataset}',
]

Redraw = Callable[[SeenBatch], Batch]


class RecentBatches:
    """Remembers micro-batches, and draws them again.

    Args:
        run: The training; it holds the digests.
        redraw: Draws a micro-batch once more in this process.
        config: Whether data are checked, and the differences that a resume allows.
        warn: Shows a line to the user.
        states: Passed objects that the data go by. A micro-batch is drawn again with what they were at its draw.
    """

    def __init__(
        self,
        run: RunState,
        redraw: Redraw,
        config: CheckpointConfig,
        warn: Callable[[str], None],
        states: DataStates,
    ) -> None:
        self._run, self._redraw, self._warn, self._is_on = run, redraw, warn, config.check_data
        self._states, self._drawn_with = states, dict[str, State]()
        self._is_due = config.check_data and not _data_may_differ(run, config.changes_allowed)
        self._is_proven = self._has_warned = False

    def noted(self, epoch: int, pieces: list[tuple[range, Batch]]) -> list[tuple[Batch, int]]:
        """Remembers the last micro-batch of a step, before the step may change it.

        Args:
            epoch: The current one.
            pieces: Positions in the epoch's order, and what the collator made of their samples.

        Returns:
            The micro-batches, each with its number of samples.
        """
        if self._is_on and pieces:
            piece, batch = pieces[-1]
            self._drawn_with = self._states.copied()
            seen = SeenBatch(
                epoch=epoch,
                start=piece.start,
                stop=piece.stop,
                digest=digest_of(batch),
                state=digest_of_states(self._drawn_with),
            )
            self._run.note_batches((*self._run.recent, seen)[-_KEPT:])

        return [(batch, len(piece)) for piece, batch in pieces]

    def check_at_save(self) -> None:
        """Draws the last micro-batch again, before it is part of a checkpoint.

        Raises:
            ConfigError: it is another one, at the first save of this process; later ones are a warning.
        """
        if not self._is_on or not self._run.recent or self._has_warned:
            return

        last = self._run.recent[-1]
        try:
            digest = digest_of(self._drawn_as_then(last))
        except (OSError, MemoryError) as error:
            # Not the data's fault, nor the checkpoint's; the next save draws again.
            self._warn(f"WARNING: {_named(last)} could not be drawn again at this save: {error}")
            return

        if digest == last.digest:
            self._is_proven = True
            return

        problem = f"{_named(last)} is another one when it is drawn again: the data depend on more than their index"
        if self._is_proven:
            self._has_warned = True
            self._warn(f"WARNING: {problem}. A resume will not train on the same samples (--no_check_data).")
            return

        raise ConfigError(
            problem,
            expected="samples and batches that are a function of the seed, the epoch and the index",
            hint=[
                *_ADVICE,
                "keep counters, caches and generators that draw now and then out of the data set and the collator",
                "or train without this promise: --no_check_data",
            ],
        )

    def _drawn_as_then(self, last: SeenBatch) -> Batch:
        """The micro-batch once more, from data whose states are those of its first draw."""
        now = self._states.copied()
        if digest_of_states(self._drawn_with) != last.state:
            # Of an earlier process.
            return self._redraw(last)

        self._states.put_back(self._drawn_with)
        try:
            return self._redraw(last)
        finally:
            self._states.put_back(now)

    def check_after_resume(self, epoch: int) -> None:
        """Draws the micro-batches before the checkpoint again, once, before the first step.

        Args:
            epoch: That has begun; data of another one may wait for a callback to say which it is.

        Raises:
            CheckpointError: one of this epoch is another one than in training.
        """
        is_due, self._is_due = self._is_due, False
        end, state = time.monotonic() + _SECONDS, digest_of_states(self._states.copied())
        for seen in reversed(self._run.recent if is_due else ()):
            # Drawn before a callback moved the data on: its state then is in no checkpoint.
            if seen.state != state:
                continue
            if digest_of(self._redraw(seen)) != seen.digest:
                self._refuse_or_warn(seen, epoch)
                return
            if time.monotonic() > end:
                return

    def _refuse_or_warn(self, seen: SeenBatch, epoch: int) -> None:
        problem = f"{_named(seen)} is not the one that was trained on before the checkpoint"
        if seen.epoch != epoch:
            self._warn(f"WARNING: {problem}: exact only if a callback tells the data which epoch it is.")
            return

        raise CheckpointError(
            problem,
            expected="the data set, the collator and the order of the samples as they were",
            found="another content, or a state that they keep beside their index",
            hint=["restore the data as they were", *_ADVICE, "or continue with these: --allow_changed data"],
        )


def _data_may_differ(run: RunState, allowed: frozenset[str]) -> bool:
    changed = run.resume.plan.changed if run.resume is not None else frozenset()
    return bool(allowed & {"data", "all"} or changed & (run.fingerprints.keys() | SETS_ORDER))


def _named(seen: SeenBatch) -> str:
    return f"the micro-batch of samples {seen.start + 1:,} to {seen.stop:,} of epoch {seen.epoch + 1}"


# ---- Content ----


def digest_of(batch: Batch) -> str:
    """Of the values in a batch; objects that are neither tensors nor plain values count by their class."""
    digest = hashlib.blake2b(digest_size=_DIGITS // 2)
    for part in _content(batch):
        digest.update(part)
    return digest.hexdigest()


def _content(value: object) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor) and value.layout is torch.strided:
        flat = value.detach().reshape(-1)
        some = flat[:: max(flat.numel() // _VALUES, 1)]
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield bytes_of(some).tobytes() if some.numel() else b""
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"{value.dtype}{value.shape}".encode()
        yield value.reshape(-1)[:: max(value.size // _VALUES, 1)].tobytes()
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            yield f"{name}:".encode()
            yield from _content(value[name])
    elif isinstance(value, list | tuple):
        yield f"{len(value)}:".encode()
        for item in value:
            yield from _content(item)
    elif isinstance(value, str | bytes | bool | int | float | complex | np.generic | None):
        yield f"{value!r};".encode()
    else:
        yield type(value).__qualname__.encode()
