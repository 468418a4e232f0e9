"""What people take next after the items of a history: a first-order Markov chain that looks a few items further."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llamarec.experts.history_matrix import bent, history_matrix, strongest, sums_of_rows
from llamarec.experts.known import Known
from llamarec.experts.pair_counts import normalised, pair_counts
from llamarec.experts.queries import Queries

_REACH: Final = 3
_DECAY: Final = 0.8
_BEND: Final = 30.0
_SMOOTHING: Final = 1.0


class Transitions:
    """log(1 + 30 x), where x is the sum over the history of 0.8^age times C[i, j] / sqrt((n_i + 1) (n_j + 1)).

    C[i, j] is the sum of 1/d over the times that j stood d = 1, 2, 3 items after i; n counts interactions (Rendle et
    al. 2010, "Factorizing personalized Markov chains", has the chain; Ludewig and Jannach 2018, section 3.1, the
    distances).

    Args:
        known: Interactions that may be counted.
    """

    name = "transitions"

    def __init__(self, known: Known) -> None:
        self._num_items = known.num_items
        self.table: csr_array = normalised(pair_counts(known, _REACH, lambda d: 1 / d), known, smoothing=_SMOOTHING)

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, items + 1] 0 where an item never followed."""
        histories = history_matrix(queries.histories, self._num_items, decay=_DECAY)
        return bent(sums_of_rows(histories, self.table), _BEND)

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """The item of the history that leads to this one."""
        known = strongest(history, self.table, item, decay=_DECAY)
        return f"people who took {titles[known]} take it next" if known else ""
