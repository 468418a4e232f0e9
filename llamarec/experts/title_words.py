"""Titles as TF-IDF vectors of their words, and the similarity of titles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamarec.texts import words_of

_DECAY: Final = 0.8
_REMEMBERED: Final = 20  # items; by then an item counts 1%
_BEND: Final = 3.0  # similarity to two items counts less than twice as much (chosen on validation, decision 9)


def tf_idf(titles: Sequence[str], *, min_titles: int = 1, max_share: float = 1.0) -> Tensor:
    """TF-IDF weights: [items, words] sparse, rows of length 1 (or 0).

    Args:
        titles: By item.
        min_titles: Words in fewer titles are left out.
        max_share: Words in a larger share of the titles are left out.
    """
    words_by_item = [sorted(set(words_of(title.casefold()))) for title in titles]
    counts = Counter(word for words in words_by_item for word in words)
    kept = [word for word, count in counts.items() if min_titles <= count <= max(2, max_share * len(titles))]
    index = {word: number for number, word in enumerate(kept)}

    pairs = [(item, index[word]) for item, words in enumerate(words_by_item) for word in words if word in index]
    indices_2N = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    rarity_W = torch.log(len(titles) / torch.tensor([float(counts[word]) for word in kept]))

    values = rarity_W[indices_2N[1]]
    squares_I = torch.zeros(len(titles)).index_add(0, indices_2N[0], values.square())
    values = values / squares_I[indices_2N[0]].sqrt().clamp(min=1e-6)
    weights_IW: Tensor = torch.sparse_coo_tensor(indices_2N, values, (len(titles), len(kept)), check_invariants=True)
    return weights_IW.coalesce()


class TitleSimilarity:
    """Similarity of candidates' titles to those of a history: content-based filtering in its simplest form.

    log(1 + 3 x), where x is the sum over the last 20 items of the history of the cosine of TF-IDF vectors (Pazzani and
    Billsus 2007, section 10.3); an item that is a positions older is weighted by 0.8^a.

    Args:
        titles: By item id.
    """

    def __init__(self, titles: Sequence[str]) -> None:
        weights_IW = tf_idf(titles)
        items, self._words = weights_IW.indices().numpy()
        self._weights = weights_IW.values().numpy().astype(np.float64)
        self._starts = np.searchsorted(items, np.arange(len(titles) + 1))
        self._num_words = weights_IW.shape[1]

    def __call__(self, history: NDArray[np.integer], candidates: NDArray[np.integer]) -> NDArray[np.float64]:
        """Similarity of each candidate: [C], 0 where no word is shared.

        Args:
            history: Item ids, oldest first.
            candidates: [C] item ids.
        """
        wanted_W = np.zeros(self._num_words)
        for age, item in enumerate(history[: -_REMEMBERED - 1 : -1].tolist()):
            words, weights = self._words_of(item)
            wanted_W[words] += _DECAY**age * weights

        alike_C = np.array([weights @ wanted_W[words] for words, weights in map(self._words_of, candidates.tolist())])
        return np.log1p(_BEND * alike_C)

    def _words_of(self, item: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        part = slice(self._starts[item], self._starts[item + 1])
        return self._words[part], self._weights[part]
