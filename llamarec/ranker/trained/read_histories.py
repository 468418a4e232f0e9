"""Histories that a language model has read: an expert that scores the whole catalogue for them, block by block.

U histories, K numbers of a user vector, N items + 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamarec.experts.queries import Queries
from llamarec.ranker.model.items.head import FixedItems

LANGUAGE_MODEL: Final = "language_model"
"""Its name among the experts of a sum."""
_SHOWN_TITLES: Final = 2


class ReadHistories:
    """The language model's scores for histories that it has read.

    A user vector has a hundred numbers, the scores of a catalogue may be a million. So the model reads many histories
    at once, and the scores of a few are computed when they are asked for.

    Args:
        items: Turns user vectors into logits.
        histories: Item ids, oldest first.
        users_UK: User vectors at the end of each history.
    """

    name = LANGUAGE_MODEL

    def __init__(self, items: FixedItems, histories: Sequence[NDArray[np.int32]], users_UK: Tensor) -> None:
        self._items, self._users_UK = items, users_UK
        # Equal histories have equal vectors, up to the rounding in another company: the first one's count.
        self._row_of: dict[bytes, int] = {}
        for row, history in enumerate(histories):
            self._row_of.setdefault(_key(history), row)

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, N] logits of all items, whatever the moment; minus infinity for padding.

        Raises:
            KeyError: a history was not read.
        """
        return self.scores_of(queries.histories)

    def scores_of(self, histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """As `scores`."""
        rows = torch.tensor([self._row_of[_key(history)] for history in histories], device=self._users_UK.device)
        users_QK = self._users_UK[rows].to(self._items.bias_N.device)
        logits_QN = self._items.logits(users_QK).float().cpu().numpy()
        return np.pad(logits_QN, ((0, 0), (1, 0)), constant_values=-np.inf)

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """See `reason_after`."""
        return reason_after(history, titles)


def reason_after(history: NDArray[np.int32], titles: Sequence[str]) -> str:
    """What a language model can say of its reasons: the titles that it read last.

    Args:
        history: Item ids, oldest first.
        titles: By item id.
    """
    lasts = [titles[int(item)] for item in history[-_SHOWN_TITLES:]]
    return f"the language model expects it after {', then '.join(lasts)}" if lasts else ""


def _key(history: NDArray[np.int32]) -> bytes:
    return np.ascontiguousarray(history, dtype=np.int32).tobytes()
