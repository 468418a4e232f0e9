"""Similarity of titles to those of a history: content-based filtering in its simplest form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llamarec.experts.history_matrix import REMEMBERED, bent, history_matrix, sums_of_rows
from llamarec.experts.queries import Queries
from llamarec.experts.title_words import tf_idf

_DECAY: Final = 0.8
_BEND: Final = 3.0  # similarity to two items counts less than twice as much (chosen on validation, decision 9)


class Titles:
    """log(1 + 3 x), where x is the sum over the history of 0.8^age times the cosine of TF-IDF vectors.

    It knows an item that nobody has taken yet (Pazzani and Billsus 2007, section 10.3).

    Args:
        titles: By item id.
    """

    name = "titles"

    def __init__(self, titles: Sequence[str]) -> None:
        weights = tf_idf(titles)
        items, words = weights.indices().numpy()
        self._num_items = len(titles) - 1
        self.words: csr_array = csr_array(
            (weights.values().numpy().astype(np.float32), (items, words)), shape=tuple(weights.shape)
        )
        # The items of each word: an inverted index.
        self._items: csr_array = self.words.T.tocsr()

    def scores(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, items + 1] 0 where no word is shared."""
        histories = history_matrix(queries.histories, self._num_items, decay=_DECAY)
        return bent(sums_of_rows(histories @ self.words, self._items), _BEND)

    def reason(self, history: NDArray[np.int32], moment: int, item: int, titles: Sequence[str]) -> str:
        """The title of the history that is most like this one."""
        own = self.words[[item]]
        lasts = history[: -REMEMBERED - 1 : -1]
        alike = (self.words[lasts] @ own.T).toarray()[:, 0] * _DECAY ** np.arange(len(lasts))
        return f"its title is like {titles[int(lasts[int(alike.argmax())])]}" if alike.max(initial=0) > 0 else ""
