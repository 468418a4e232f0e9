"""What the user took before: in some data people come back to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llamarec.experts.history_matrix import bent, history_matrix
from llamarec.experts.queries import Queries

_DECAY: Final = 0.9
_REMEMBERED: Final = 50
_BEND: Final = 3.0


class Returns:
    """log(1 + 3 x), where x is the sum of 0.9^age over the times that the history has the item (Anderson et al. 2014).

    Args:
        num_items: Items of the catalogue.
    """

    name = "returns"

    def __init__(self, num_items: int) -> None:
        self._num_items = num_items

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, items + 1] 0 for an item that is new to the user."""
        histories = history_matrix(queries.histories, self._num_items, decay=_DECAY, remembered=_REMEMBERED)
        weights: NDArray[np.float32] = histories.toarray()
        return bent(weights, _BEND)

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """How often it was taken."""
        times = int((history == item).sum())
        return f"taken before, {times:,} times" if times > 1 else "taken before" if times else ""
