"""Who computes the blocks of a batch. What the blocks are, and what is published, is the batch's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

from llamarec.recommend.answers import answer_lines
from llamarec.recommend.recommender import Recommender
from llamarec.recommend.requests import Request

Block: TypeAlias = Sequence[Request]
"""Requests that are answered at once."""


class Engine(Protocol):
    """Computes the answers to blocks of requests."""

    @property
    def fingerprint(self) -> str:
        """Of the run, as `Recommender.fingerprint`."""

    def answered(self, blocks: Sequence[Block], k: int) -> Iterator[bytes]:
        """The lines of each block (`answer_lines`), in the order of the blocks.

        Args:
            blocks: Each is computed whole, by one recommender.
            k: Items per request.
        """


class LocalEngine:
    """This process, one block after the other.

    Args:
        recommender: A trained run.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender

    @property
    def fingerprint(self) -> str:
        """See `Engine`."""
        return self._recommender.fingerprint

    def answered(self, blocks: Sequence[Block], k: int) -> Iterator[bytes]:
        """See `Engine`."""
        for block in blocks:
            yield answer_lines(self._recommender, block, k)
