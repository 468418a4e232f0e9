"""This project's own system: the first stage, a sum of experts over the whole catalogue, and each expert alone.

One fit makes all rows. A new system is a function that fits it, an entry of `SYSTEMS`, and its name in
benchmarks/standard/systems.py. `Fitted.seconds` says what a part takes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.harness.processor import processor_seconds
from benchmarks.standard.protocol import Fit, Fitted, System
from llamarec.data.prepared import PreparedData
from llamarec.experts.build import TRENDS, ExpertBuilder
from llamarec.experts.expert_sum import ExpertSum
from llamarec.experts.known import known_at
from llamarec.experts.queries import Expert, Queries
from llamarec.retriever.config import RetrieverConfig, defaults_for
from llamarec.retriever.expert_stage import ExpertStage
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.learned_expert import MODEL
from llamarec.retriever.members import further_members
from llamarec.retriever.refit import refitted
from llamarec.vocabulary import Asked

_SUM: Final = "first-stage"
_RETRIEVER: Final = "retriever"
_EXPERTS: Final = ("titles", "transitions", "neighbours", "popularity", *TRENDS, "returns")


class ExpertScorer:
    """An expert, or the sum of several, as a scorer."""

    def __init__(self, expert: Expert | ExpertSum) -> None:
        self._expert = expert

    def scores(self, histories: Sequence[NDArray[np.int32]], times: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Scorer`."""
        return self._expert.scores(Queries(histories, times))


def fit_first_stage(data: PreparedData, how: Fit) -> Fitted:
    """Trains the retriever with its defaults, and fits the weights of all experts on validation."""
    config = RetrieverConfig(**defaults_for(data.dataset_code), seed=how.seed)
    config = replace(config, num_epochs=how.epochs(config.num_epochs))
    console = Console(quiet=True)

    started = processor_seconds()
    trainer = RetrieverTrainer(data, config, how.folder, console)
    trainer.fit()
    trainers = [trainer, *further_members(data, config, how.folder, console)]
    again: dict[Asked, list[RetrieverTrainer]] = {}
    if "test" in config.refits(data.has_cut):
        again["test"] = refitted("test", data, config, how.folder, console, trainers)
    seconds = {_RETRIEVER: processor_seconds() - started}

    stage = ExpertStage(data, config, trainers, again)
    stage.fit(console)
    known, builder = known_at(data, "test"), ExpertBuilder(data)
    experts: dict[str, Expert] = {_RETRIEVER: stage.learned.at(known)}

    for name in builder.names:
        started = processor_seconds()
        (experts[_row_of(name)],) = builder.experts(known, [name])
        seconds[_row_of(name)] = processor_seconds() - started

    weights = {f"weight of {name}": weight for name, weight in stage.weights.by_name.items()}
    return Fitted(
        {_SUM: ExpertScorer(stage.sum_of(known)), **{row: ExpertScorer(expert) for row, expert in experts.items()}},
        {"epochs": trainer.state.epoch, "best epoch": trainer.state.best_epoch, **weights},
        seconds,
    )


def _row_of(expert: str) -> str:
    return f"expert-{expert}"


SYSTEMS: Final = (
    System(
        name=_SUM,
        titles={
            _SUM: "first stage: the sum of experts",
            _RETRIEVER: f"its retriever alone ({MODEL})",
            **{_row_of(name): f"its expert {name.replace('_', ' ')} alone" for name in _EXPERTS},
        },
        fit=fit_first_stage,
        is_ours=True,
        is_random=True,
    ),
)
