"""What the first stage is asked: which item comes next after each history, at a moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

_BLOCK_SCORES: Final = 3_000_000  # of one expert: 12 MB
_MOST_QUERIES: Final = 256
# Of a million items 32 MB. Each block reads the vectors of all items: with fewer queries that takes most of the time.
_FEWEST_QUERIES: Final = 8


class Queries(NamedTuple):
    """Histories, and the moments at which their next item is asked for.

    histories: [Q] item ids, oldest first, none of them empty.
    times: [Q] seconds since 1970.
    """

    histories: Sequence[NDArray[np.int32]]
    times: NDArray[np.int64]

    def part(self, start: int, end: int) -> Queries:
        """Some consecutive queries."""
        return Queries(self.histories[start:end], self.times[start:end])


class Expert(Protocol):
    """Scores every item of the catalogue as the next one after a history."""

    @property
    def name(self) -> str:
        """Its name in experts.json and tables."""

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, items + 1] a higher score for a likelier item; comparable only within a row."""

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """Why it proposes an item, in words.

        Args:
            history: Item ids, oldest first.
            moment: When the question is asked, in seconds since 1970.
            item: The item.
            titles: By item id.
        """


def blocks_of(num_queries: int, num_items: int) -> Iterator[slice]:
    """Parts of so many queries whose scores of all items fit well into memory."""
    size = max(_FEWEST_QUERIES, min(_MOST_QUERIES, _BLOCK_SCORES // (num_items + 1)))
    for start in range(0, num_queries, size):
        yield slice(start, min(start + size, num_queries))
