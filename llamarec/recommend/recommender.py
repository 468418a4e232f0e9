"""`Recommender`: a trained run as one object that recommends the next items."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from llamarec.data.prepared import PreparedData, load_prepared
from llamarec.errors import ConfigError
from llamarec.experts.reasons import Reason
from llamarec.ranker.options.config import ITEMS
from llamarec.ranker.trained.loading import readout_of
from llamarec.ranker.trained.locations import find_experiment
from llamarec.recommend.catalogue import Catalogue
from llamarec.recommend.letter_order import load_letter_order
from llamarec.recommend.orders import Order, Ranked
from llamarec.recommend.sum_order import load_sum_order

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        rank: 1 = first.
        item: Raw key.
        title: Its title.
        score: Final score, comparable only within one list; None for an item beyond the candidates of letters.
        retriever_rank: Its rank by the first stage (the weighted sum of retriever and experts), 1 = first.
        retriever_score: Its score there: a logit.
        title_similarity: Similarity of its title to the titles of the history; 0 if titles have no weight of their own,
            None beyond the candidates, and with `--readout items`.
        letter: Letter of its slot in the prompt; None likewise.
        letter_log_probability: Log-probability of the letter, less the model's prior for letters; None likewise.
        language_model_score: Logit by the language model, with `--readout items`; None where it has no weight.
    """

    rank: int
    item: str
    title: str
    score: float | None
    retriever_rank: int
    retriever_score: float
    title_similarity: float | None
    letter: str | None
    letter_log_probability: float | None
    language_model_score: float | None = None

    def as_dict(self) -> dict[str, object]:
        """The fields, for JSON."""
        return asdict(self)


class Recommender:
    """The first stage and the best ranker of a run.

        recommender = Recommender.load("experiments/llm/beauty")
        recommender.recommend(history=["Title of a first item", "B00004TMFE"], k=10)
        recommender.recommend(user="A1YJEY40YUW4SE")

    Args:
        data: Prepared data.
        order: Orders the items for a history.
        only_new: Whether items of the history are never proposed.
    """

    def __init__(self, data: PreparedData, order: Order, *, only_new: bool = False) -> None:
        self.data, self.order, self._only_new = data, order, only_new
        self.catalogue = Catalogue(data)

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        experiment_root: str | Path = "experiments",
        device: str = "auto",
        only_new: bool = False,
    ) -> Recommender:
        """Loads a trained run.

        Args:
            run: A data set code, or the folder of a run (`experiments/llm/beauty`).
            experiment_root: Folder of the runs, if `run` is a data set code.
            device: `auto`, `cpu`, or a name that torch knows.
            only_new: Never recommend an item of the history, even if users of this data set repeat items.

        Raises:
            LlamarecError: something is missing, damaged, or from other data; the error says what to type.
        """
        experiment = find_experiment(run, Path(experiment_root))
        data = load_prepared(experiment.data)
        load = load_sum_order if readout_of(experiment) == ITEMS else load_letter_order
        return cls(data, load(experiment, data, device=device, only_new=only_new), only_new=only_new)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of everything that the answers depend on: data, retriever, adapter and weights."""
        parts = [self.data.fingerprint, *self.order.made_of, "only_new" if self._only_new else ""]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def recommend(
        self, history: Sequence[str] | None = None, *, user: str | None = None, k: int = 10
    ) -> list[Recommendation]:
        """The k best next items.

        Args:
            history: Keys or titles of the items taken so far, oldest first.
            user: Key of a user of the data set, instead of a history.
            k: Number of items. With letters, those beyond the candidates (20) are in the first stage's order.

        Returns:
            Recommendations, best first; fewer than k only if the catalogue has no more items.

        Raises:
            UnknownError: an item or user is not in the data; the error names similar ones.
            ConfigError: neither or both of history and user, an empty history, or k below 1.
        """
        if (history is None) == (user is None):
            raise ConfigError("recommend takes either a history or a user", expected="history=[...] or user=...")

        # Keys are often numbers.
        texts = [str(item) for item in _sequence(history)]
        items = self.items_of(str(user)) if user is not None else self.catalogue.items(texts)
        return self.recommend_many([items], k)[0]

    def items_of(self, user: str, *, propose: bool = True) -> list[int]:
        """Item ids of a user's history, oldest first, even of one with too few interactions for training.

        Args:
            user: Key.
            propose: Look for keys similar to an unknown one.

        Raises:
            UnknownError: there is no such user.
        """
        return self.catalogue.taken_by(user, propose=propose)

    def recommend_many(
        self, histories: Sequence[Sequence[int]], k: int = 10, *, times: Sequence[int] | None = None
    ) -> list[list[Recommendation]]:
        """Lists for many histories at once, which is faster than one call each.

        Args:
            histories: Item ids (`catalogue.items`, `items_of`), oldest first; none may be empty.
            k: Number of items per history.
            times: When each is asked, in seconds since 1970; None: at the last interaction of the data set.

        Raises:
            ConfigError: a history is empty, or k below 1.
        """
        if k < 1:
            raise ConfigError(f"k {k}: at least 1")
        if not all(map(len, histories)):
            raise ConfigError("an empty history", expected="at least one item")

        results: list[list[Recommendation]] = []
        for start in range(0, len(histories), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            rows = [np.array(one, dtype=np.int32) for one in histories[part]]
            lists = self.order.lists(rows, k, None if times is None else times[part])
            results += [[self._named(rank, one) for rank, one in enumerate(found[:k], start=1)] for found in lists]

        return results

    def reasons(self, history: Sequence[int], found: Sequence[Recommendation]) -> list[list[Reason]]:
        """Why items are recommended, or among the candidates of letters: the experts that speak for each, the
        strongest first.

        Args:
            history: Item ids, oldest first.
            found: Recommendations for it.
        """
        ids = np.array([self.catalogue.items([one.item])[0] for one in found], dtype=np.int32)
        return self.order.reasons(np.array(history, dtype=np.int32), ids, self.data.titles)

    def _named(self, rank: int, one: Ranked) -> Recommendation:
        return Recommendation(
            rank=rank,
            item=self.data.items[one.item],
            title=self.data.titles[one.item],
            score=one.score,
            retriever_rank=one.retriever_rank,
            retriever_score=one.retriever_score,
            title_similarity=one.title_similarity,
            letter=one.letter,
            letter_log_probability=one.letter_log_probability,
            language_model_score=one.language_model_score,
        )


def _sequence(history: Sequence[str] | None) -> Sequence[str]:
    if isinstance(history, str):
        raise ConfigError("history must be a list of items, not one text", hint=f"history=[{history!r}]")
    return history or []
