"""`Recommender`: a trained run as one object that recommends the next items."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamarec.checkpoints.storage.durable import sha256_of
from llamarec.checkpoints.storage.layout import weight_files
from llamarec.data.prepared import PreparedData, load_prepared
from llamarec.errors import ConfigError
from llamarec.experts.reasons import Reason, reasons
from llamarec.ranker.prompts.template import LETTERS
from llamarec.ranker.trained.locations import find_experiment
from llamarec.ranker.trained.serving import Answer, LetterRanker, Question, load_ranker
from llamarec.recommend.catalogue import Catalogue
from llamarec.retriever.serving import Retriever, load_retriever
from llamarec.vocabulary import PADDING_ITEM

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        rank: 1 = first.
        item: Raw key.
        title: Its title.
        score: Final score, comparable only within one list; None for an item beyond the ranker's candidates.
        retriever_rank: Its rank in the retriever's list (the weighted sum of model and experts), 1 = first.
        retriever_score: Its score there: a logit.
        title_similarity: Similarity of its title to the titles of the history; 0 if titles have no weight, None beyond
            the ranker's candidates.
        letter: Letter of its slot in the prompt; None beyond the ranker's candidates.
        letter_log_probability: Log-probability of the letter, less the model's prior for letters; None beyond the
            ranker's candidates.
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

    def as_dict(self) -> dict[str, object]:
        """The fields, for JSON."""
        return asdict(self)


class Recommender:
    """The retriever and the best ranker of a run.

        recommender = Recommender.load("experiments/llm/beauty")
        recommender.recommend(history=["Title of a first item", "B00004TMFE"], k=10)
        recommender.recommend(user="A1YJEY40YUW4SE")

    Args:
        data: Prepared data.
        retriever: Proposes candidates.
        ranker: Orders them.
        only_new: Whether items of the history are never proposed.
    """

    def __init__(
        self, data: PreparedData, retriever: Retriever, ranker: LetterRanker, *, only_new: bool = False
    ) -> None:
        self.data, self._retriever, self.ranker, self._only_new = data, retriever, ranker, only_new
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
        retriever = load_retriever(experiment, data, only_new=only_new)
        ranker = load_ranker(experiment, data, retriever_digest=retriever.digest, device=device)

        return cls(data, retriever, ranker, only_new=only_new)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of everything that the answers depend on: data, retriever, adapter and weights."""
        folder = self.ranker.adapter.folder
        parts = [self.data.fingerprint, self._retriever.digest, *map(sha256_of, weight_files(folder))]
        parts += [self.ranker.fusion.as_bytes().hex(), "only_new" if self._only_new else ""]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def recommend(
        self, history: Sequence[str] | None = None, *, user: str | None = None, k: int = 10
    ) -> list[Recommendation]:
        """The k best next items.

        Args:
            history: Keys or titles of the items taken so far, oldest first.
            user: Key of a user of the data set, instead of a history.
            k: Number of items. Those beyond the ranker's candidates (20) are in the retriever's order.

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
        if not all(histories):
            raise ConfigError("an empty history", expected="at least one item")

        results: list[list[Recommendation]] = []
        for start in range(0, len(histories), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            rows = [np.array(one, dtype=np.int32) for one in histories[part]]
            results += self._recommend(rows, k, None if times is None else times[part])

        return results

    def reasons(self, history: Sequence[int], found: Sequence[Recommendation]) -> list[list[Reason]]:
        """Why items are among the candidates: the experts of the first stage that speak for each, the strongest first.

        Args:
            history: Item ids, oldest first.
            found: Recommendations for it.
        """
        ids = np.array([self.catalogue.items([one.item])[0] for one in found], dtype=np.int32)
        queries = self._retriever.queries([np.array(history, dtype=np.int32)])
        return reasons(self._retriever.expert_sum, queries, [ids], self.data.titles)[0]

    def _recommend(
        self, histories: list[NDArray[np.int32]], k: int, times: Sequence[int] | None
    ) -> list[list[Recommendation]]:
        ranked = self.ranker.num_candidates
        items_PK, scores_PK = self._retriever.propose(histories, max(k, ranked), times)

        questions = [
            Question(history, items_K[:ranked], scores_K[:ranked])
            for history, items_K, scores_K in zip(histories, items_PK, scores_PK, strict=True)
        ]
        answers = self.ranker.answer(questions)

        return [
            self._listed(items_K, scores_K, answer)[:k]
            for items_K, scores_K, answer in zip(items_PK, scores_PK, answers, strict=True)
        ]

    def _listed(
        self, items_K: NDArray[np.int32], scores_K: NDArray[np.float32], answer: Answer
    ) -> list[Recommendation]:
        ranked = len(answer.final_C)
        # Among equal scores the retriever's order decides.
        order = [*np.argsort(-answer.final_C, kind="stable").tolist(), *range(ranked, len(items_K))]
        positions = [position for position in order if items_K[position] != PADDING_ITEM]

        return [
            Recommendation(
                rank=rank,
                item=self.data.items[int(items_K[position])],
                title=self.data.titles[int(items_K[position])],
                score=float(answer.final_C[position]) if position < ranked else None,
                retriever_rank=position + 1,
                retriever_score=float(scores_K[position]),
                title_similarity=float(answer.similarities_C[position]) if position < ranked else None,
                letter=LETTERS[int(answer.slots_C[position])] if position < ranked else None,
                letter_log_probability=float(answer.letters_C[position]) if position < ranked else None,
            )
            for rank, position in enumerate(positions, start=1)
        ]


def _sequence(history: Sequence[str] | None) -> Sequence[str]:
    if isinstance(history, str):
        raise ConfigError("history must be a list of items, not one text", hint=f"history=[{history!r}]")
    return history or []
