"""This project's own systems.

A new one is a function that fits it, an entry of `SYSTEMS`, and its name in benchmarks/standard/systems.py. A system of
parts, such as a sum of experts, names a row for each of them in `titles` and returns a scorer for each: one fit, one
file, and every part has its own figures. `Fitted.seconds` says what a part takes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.standard.protocol import Fit, Fitted, System
from llamarec.data.prepared import PreparedData
from llamarec.retriever.config import RetrieverConfig, defaults_for
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.model import LRURec
from llamarec.retriever.scoring import catalogue_scores


class RetrieverScorer:
    """A trained retriever over the whole catalogue."""

    def __init__(self, model: LRURec, max_length: int) -> None:
        self._model, self._max_length = model.eval(), max_length

    @torch.inference_mode()
    def scores(self, histories: Sequence[NDArray[np.int32]], times: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Scorer`."""
        scores_BN: NDArray[np.float32] = catalogue_scores(
            self._model, histories, max_length=self._max_length, exclude=False
        ).numpy()
        return scores_BN


def fit_retriever(data: PreparedData, how: Fit) -> Fitted:
    """Trains the retriever with its defaults; it stops early on validation."""
    config = RetrieverConfig(**defaults_for(data.dataset_code), seed=how.seed)
    config = replace(config, num_epochs=how.epochs(config.num_epochs))
    trainer = RetrieverTrainer(data, config, how.folder, Console(quiet=True))
    trainer.fit()

    notes = {"epochs": trainer.state.epoch, "best epoch": trainer.state.best_epoch}
    return Fitted({"retriever": RetrieverScorer(trainer.model, config.max_length)}, notes)


SYSTEMS: Final = (
    System(
        name="retriever", titles={"retriever": "retriever (LRURec)"}, fit=fit_retriever, is_ours=True, is_random=True
    ),
)
