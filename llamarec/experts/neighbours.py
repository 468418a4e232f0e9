"""What people have who have the items of a history: item-based collaborative filtering."""

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

_REACH: Final = 50
_DECAY: Final = 0.7
_BEND: Final = 30.0
_SMOOTHING: Final = 10.0


class Neighbours:
    """log(1 + 30 x), where x is the sum over the history of 0.7^age times the similarity of two items.

    The similarity is the cosine of the items' users, in which a user counts 1 / log2(2 + length of the sequence), and
    each item's number of interactions is smoothed by 10 (Sarwar et al. 2001, section 3.1; Breese et al. 1998, section
    2.2.3, for users who take much). Two items of a sequence count where they are at most 50 items apart.

    Args:
        known: Interactions that may be counted.
    """

    name = "neighbours"

    def __init__(self, known: Known) -> None:
        self._num_items = known.num_items
        after = pair_counts(known, _REACH, lambda _: 1.0, by_length=True)
        both = (after + after.T).tocsr()
        both.setdiag(0.0)
        both.eliminate_zeros()
        self.table: csr_array = normalised(both, known, smoothing=_SMOOTHING)

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, items + 1] 0 where nobody has both."""
        histories = history_matrix(queries.histories, self._num_items, decay=_DECAY)
        return bent(sums_of_rows(histories, self.table), _BEND)

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """The item of the history that leads to this one."""
        known = strongest(history, self.table, item, decay=_DECAY)
        return f"people who took {titles[known]} take it too" if known else ""
