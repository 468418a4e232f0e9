"""A checkpoint in memory, between the trainer that it is taken from and the writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llamarec.checkpoints.storage.manifest import Manifest
from llamarec.checkpoints.storage.publish import Staging


def _nothing() -> None:
    """There is nothing to discard."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A checkpoint in memory.

    Attributes:
        manifest: All but the files.
        fill: Writes the files.
        num_bytes: About what they take.
        can_retry: `fill` may be called a second time.
        copied: Makes a snapshot that can be retried of one that cannot; to be called before training continues. None
            where that is impossible.
        discard: Removes temporary files of it beside the checkpoints.
        read_back: Compares the written folder with this; returns what to tell the user.
    """

    manifest: Manifest
    fill: Callable[[Staging], None]
    num_bytes: int
    can_retry: bool = False
    copied: Callable[[], Snapshot] | None = None
    discard: Callable[[], None] = _nothing
    read_back: Callable[[Path], str] | None = None

    @property
    def is_best(self) -> bool:
        """Whether it holds the best model so far."""
        return self.manifest.step == self.manifest.best_step

    def to_retry(self) -> Callable[[], Snapshot] | None:
        """What makes a snapshot that a later save can write; None where nothing does."""
        return (lambda: self) if self.can_retry else self.copied
