"""How many people took an item, and whether they took it lately."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llamarec.experts.known import Known
from llamarec.experts.queries import Queries

_DAY: Final = 86_400
_FEW_LATELY: Final = 0.05
_FEW: Final = 5.0
"""Both are added to an item's numbers: one that was never taken has the trend of a fading one."""


class Popularity:
    """log(1 + interactions of the item).

    Args:
        known: Interactions that may be counted.
    """

    name = "popularity"

    def __init__(self, known: Known) -> None:
        self._scores = np.log1p(known.counts()).astype(np.float32)

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, items + 1] the same for each query."""
        return np.broadcast_to(self._scores, (len(queries.histories), len(self._scores)))

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """How many took it."""
        return f"{round(float(np.expm1(self._scores[item]))):,} took it"


class Trend:
    """log((r + 0.05) / (n + 5)): the share of an item's interactions that are recent when the question is asked.

    r is the sum of exp(-age / days) over the item's interactions up to then, and n their number. Nothing later counts,
    whatever the split: a catalogue changes, and a count over all times does not tell what is new from what is over (Ji
    et al. 2020, "A re-visit of the popularity baseline in recommender systems").

    Args:
        known: Interactions that may be counted.
        days: Age at which an interaction counts 1/e.
        name: Its name.
    """

    def __init__(self, known: Known, days: float, name: str) -> None:
        order = np.argsort(known.times, kind="stable")
        self._items, self._times = known.items[order], known.times[order]
        self._num_items, self._span, self.name = known.num_items, days * _DAY, name

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, items + 1] negative; the least where an item has not been taken lately."""
        moments_M, which_Q = np.unique(queries.times, return_inverse=True)
        scores_MN = np.empty((len(moments_M), self._num_items + 1), dtype=np.float32)
        recent_N, number_N = np.zeros(self._num_items + 1), np.zeros(self._num_items + 1)

        done, before = 0, 0
        for row, moment in enumerate(moments_M.tolist()):
            end = int(np.searchsorted(self._times, moment, side="right"))
            items, times = self._items[done:end], self._times[done:end]
            recent_N *= np.exp(-(moment - before) / self._span)
            recent_N += np.bincount(items, np.exp((times - moment) / self._span), minlength=len(recent_N))
            number_N += np.bincount(items, minlength=len(number_N))
            scores_MN[row] = np.log((recent_N + _FEW_LATELY) / (number_N + _FEW))
            done, before = end, moment
        return scores_MN[which_Q]

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """How many took it lately."""
        end = np.searchsorted(self._times, moment, side="right")
        start = np.searchsorted(self._times, moment - self._span, side="left")
        number = int((self._items[start:end] == item).sum())
        return f"{number:,} took it in the last {round(self._span / _DAY)} days" if number else ""
