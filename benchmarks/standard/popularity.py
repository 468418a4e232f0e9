"""Popularity: an item's score is its number of known interactions, for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.standard.protocol import Fit, Fitted, System, known_sequences
from llamarec.data.prepared import PreparedData
from llamarec.vocabulary import Split


class Popularity:
    """Counts of what is known when the questions of a split are asked."""

    def __init__(self, data: PreparedData, split: Split) -> None:
        known = np.concatenate(known_sequences(data, split))
        self._counts = np.bincount(known, minlength=data.num_items + 1).astype(np.float32)

    def scores(self, histories: Sequence[NDArray[np.int32]], times: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Scorer`."""
        return np.broadcast_to(self._counts, (len(histories), len(self._counts)))


def fit(data: PreparedData, how: Fit) -> Fitted:
    """Counts."""
    return Fitted({"popularity": Popularity(data, "test")})


SYSTEMS: Final = (System(name="popularity", titles={"popularity": "popularity"}, fit=fit, packages=("numpy",)),)
