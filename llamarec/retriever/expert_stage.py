"""The first stage while it is trained: the models of a retriever, the experts beside them, and the weights of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from llamarec.data.prepared import PreparedData
from llamarec.experts.build import ExpertBuilder
from llamarec.experts.expert_sum import ExpertSum
from llamarec.experts.known import Known, known_at, known_of_users
from llamarec.experts.prompts import weight_prompts
from llamarec.experts.weights import fit_weights, only, weights_text
from llamarec.retriever.assess import Assessed, assess
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.learned_expert import MODEL, learned_from
from llamarec.vocabulary import Asked, Split


class ExpertStage:
    """The members of a retriever, the experts beside them, and the weights of all.

    Args:
        data: Prepared data.
        config: Options of the retriever.
        trainers: The members, trained.
        again: The members, trained once more, by the questions that they are for.

    Attributes:
        trainers: The members, trained.
        models: The members as they are published, by the questions that they are for.
        learned: The models as one expert, by the time that it is asked.
        weights: Weights of the experts; before `fit`, the models count alone.
    """

    def __init__(
        self,
        data: PreparedData,
        config: RetrieverConfig,
        trainers: Sequence[RetrieverTrainer],
        again: Mapping[Asked, Sequence[RetrieverTrainer]],
    ) -> None:
        self._data, self._config, self.trainers = data, config, trainers
        by_questions: dict[Asked, Sequence[RetrieverTrainer]] = {"validation": trainers, **again}
        self.models = {asked: [one.trained() for one in each] for asked, each in by_questions.items()}
        self.weights = only(MODEL)
        self.learned = learned_from(self.models, data, config.max_length, has_experts=config.experts != "none")
        self._builder = ExpertBuilder(data)
        self._exclude = config.excludes(data.has_repeats)

    def fit(self, console: Console) -> None:
        """Fits the weights on validation users."""
        if self._config.experts == "none":
            return

        known = known_at(self._data, "validation")
        experts = [self.learned.at(known), *self._builder.experts(known)]
        prompts = weight_prompts(experts, self._data, excludes_history=self._exclude)
        self.weights = fit_weights([expert.name for expert in experts], prompts)
        console.print(f"experts     {weights_text(self.weights)}", soft_wrap=True)

    def assess(self, split: Split) -> Assessed:
        """Candidates and ranks of a split."""
        known = known_at(self._data, split)
        counted = [expert.name for expert in self.weights.experts]
        return assess(
            self.sum_of(known),
            [self.learned.at(known), *self._builder.experts(known, counted)],
            self._data,
            split,
            self._config.top_k,
        )

    def sum_for_users(self, users: NDArray[np.bool_]) -> ExpertSum:
        """The sum of experts that count the training items of some users."""
        return self.sum_of(known_of_users(self._data, users))

    def sum_of(self, known: Known) -> ExpertSum:
        """The sum of experts that count these interactions."""
        return self._builder.sum_of(self.learned.at(known), known, self.weights, excludes_history=self._exclude)
