"""The experts of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Final

import numpy as np

from llamarec.data.prepared import PreparedData
from llamarec.experts.expert_sum import ExpertSum
from llamarec.experts.known import Known
from llamarec.experts.neighbours import Neighbours
from llamarec.experts.popularity import Popularity, Trend
from llamarec.experts.queries import Expert
from llamarec.experts.returns import Returns
from llamarec.experts.titles import Titles
from llamarec.experts.transitions import Transitions
from llamarec.experts.weights import ExpertWeights

TRENDS: Final = {"trend_week": 7.0, "trend_month": 30.0, "trend_quarter": 90.0}
"""Days by name of the trend."""
_LEAST_SPAN: Final = 4
"""A trend tells nothing of data that span fewer than so many times its days; times that only order span seconds."""


class ExpertBuilder:
    """Makes the experts of a data set, for different interactions that may be counted.

    Args:
        data: Prepared data.
    """

    def __init__(self, data: PreparedData) -> None:
        self._data = data
        times = data.sequences.timestamps
        self._days = float(np.ptp(times)) / 86_400 if len(times) else 0.0

    @cached_property
    def _titles(self) -> Titles:
        return Titles(self._data.titles)

    @property
    def names(self) -> list[str]:
        """The experts that the data set allows, the trained model apart."""
        names = ["titles", "transitions", "neighbours", "popularity"]
        names += [name for name, days in TRENDS.items() if self._days >= _LEAST_SPAN * days]
        return [*names, "returns"] if self._data.has_repeats else names

    def experts(self, known: Known, names: Iterable[str] | None = None) -> list[Expert]:
        """Experts, the trained model apart.

        Args:
            known: Interactions that may be counted.
            names: Which; None: all that the data set allows. Unknown names are left out.
        """
        makers: dict[str, Callable[[], Expert]] = {
            "titles": lambda: self._titles,
            "transitions": lambda: Transitions(known),
            "neighbours": lambda: Neighbours(known),
            "popularity": lambda: Popularity(known),
            **{name: partial(Trend, known, days, name) for name, days in TRENDS.items()},
            "returns": lambda: Returns(self._data.num_items),
        }
        return [makers[name]() for name in (self.names if names is None else names) if name in makers]

    def sum_of(self, learned: Expert, known: Known, weights: ExpertWeights, *, excludes_history: bool) -> ExpertSum:
        """The weighted sum of a trained model and the experts that count.

        Args:
            learned: The model.
            known: Interactions that may be counted.
            weights: Weights of all of them.
            excludes_history: Whether items of the history are never proposed.
        """
        experts = [learned, *self.experts(known, weights.by_name)]
        return ExpertSum(experts, weights.by_name, self._data.num_items, excludes_history=excludes_history)
