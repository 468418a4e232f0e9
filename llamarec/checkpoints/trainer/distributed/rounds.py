"""Micro-batches and prediction steps of several processes, after each of which all learn whether to go on."""

from __future__ import annotations

from typing import NamedTuple

from transformers import TrainingArguments

from llamarec.checkpoints.trainer.distributed.channel import exchange


class Vote(NamedTuple):
    """What one process says after a round, or all of them together.

    Attributes:
        more: There is a further round; a process without one waits for those that have.
        stop: A request to stop has come.
        failed: This try is to be repeated.
        again: Likewise, as it was.
    """

    more: bool = False
    stop: bool = False
    failed: bool = False
    again: bool = False


class Rounds:
    """Rounds of one operation. In one process alone, each vote is that of all.

    Args:
        args: Say how many processes there are.
        operation: As messages name it.
    """

    def __init__(self, args: TrainingArguments, operation: str) -> None:
        self._args, self._operation, self._number = args, operation, 0

    def vote(self, own: Vote) -> Vote:
        """For each word, whether any process says it."""
        self._number += 1
        votes = exchange(self._args, f"{self._operation}, round {self._number}", own)
        return Vote(*map(any, zip(*votes, strict=True)))
