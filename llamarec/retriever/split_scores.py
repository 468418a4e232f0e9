"""Scores of the whole catalogue for the users of a split, asked as in the retriever's own evaluation.

What recommends today may know everything up to today. Here the next items are still unknown: nothing of them, and
nothing that came after them under a cut in time, may be counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llamarec.data.prepared import PreparedData
from llamarec.experts.known import known_at, queries_of
from llamarec.retriever.serving import Retriever, load_retriever
from llamarec.vocabulary import SPLITS, Experiment, Split


class SplitScores:
    """The first stage of an experiment, asked about users whose next item is known.

    Args:
        experiment: Paths of the run.
        data: The data it must have been made from.

    Raises:
        ArtifactError: there is no retriever, or it was made from other data; names the command that makes it.
    """

    def __init__(self, experiment: Experiment, data: PreparedData) -> None:
        self._data = data
        self._retrievers: dict[Split, Retriever] = {
            split: load_retriever(experiment, data, known=known_at(data, split)) for split in SPLITS
        }

    @property
    def excludes_history(self) -> bool:
        """Whether items of the history are left out."""
        return self._retrievers["test"].expert_sum.excludes_history

    def __call__(self, split: Split, user_ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """[users, items + 1] scores of all items as the next one; nothing of the history is left out."""
        return self._retrievers[split].expert_sum.totals(queries_of(self._data, split, user_ids))
