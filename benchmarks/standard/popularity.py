"""Popularity: an item's score is its number of interactions in the training part, for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.standard.protocol import Fit, Fitted, System
from llamarec.data.prepared import PreparedData


class Popularity:
    """Counts of the training part."""

    def __init__(self, data: PreparedData) -> None:
        train = [data.sequences.train(user) for user in range(data.num_users)]
        self._counts = np.bincount(np.concatenate(train), minlength=data.num_items + 1).astype(np.float32)

    def scores(self, histories: Sequence[NDArray[np.int32]], times: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Scorer`."""
        return np.broadcast_to(self._counts, (len(histories), len(self._counts)))


def fit(data: PreparedData, how: Fit) -> Fitted:
    """Counts."""
    return Fitted({"popularity": Popularity(data)})


SYSTEMS: Final = (System(name="popularity", titles={"popularity": "popularity"}, fit=fit, packages=("numpy",)),)
