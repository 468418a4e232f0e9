"""The end of a run with `--readout items`: the weight beside the first stage, and the test users' ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llamarec.data.parquet import write_parquet
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.catalogue import (
    CatalogueOutcome,
    CatalogueRanks,
    Expert,
    fit_catalogue,
    outcome_of,
    rank_catalogue,
)
from llamarec.files import replacing
from llamarec.ranker.prompts.history_samples import NextItemSamples
from llamarec.ranker.training.items.trainer import ItemTrainer
from llamarec.vocabulary import (
    FINAL_RANK,
    FIRST_STAGE_RANK,
    LABEL_ID,
    LETTERS_RANK,
    RETRIEVER_RANK,
    USER,
    USER_ID,
    Split,
)

FirstStage = Callable[[Split, NDArray[np.int32]], NDArray[np.floating]]
"""A split and ids of its users -> [users, items + 1] scores; higher is likelier."""


def assess_items(
    trainer: ItemTrainer, fusion_samples: NextItemSamples, test: NextItemSamples, first_stage: FirstStage
) -> tuple[CatalogueOutcome, CatalogueRanks]:
    """Weights fitted on validation users, and the ranks of the test users by them.

    Args:
        trainer: Trainer of the run, with its final adapter.
        fusion_samples: Users of the fit.
        test: Users of the test.
        first_stage: Scores of the whole catalogue without the language model.
    """
    known, new = _experts(trainer, fusion_samples, first_stage)
    weights = fit_catalogue(known, new, trainer.asked(fusion_samples), step=trainer.tested_step)

    known, new = _experts(trainer, test, first_stage)
    ranks = rank_catalogue(known, new, trainer.asked(test), weights)
    return outcome_of(ranks, weights), ranks


def _experts(trainer: ItemTrainer, samples: NextItemSamples, first_stage: FirstStage) -> tuple[Expert, Expert]:
    """First stage and language model, asked about the users of samples."""
    users_UK = trainer.user_vectors(samples)
    return (
        lambda block: first_stage(samples.split, samples.user_ids[block]),
        lambda block: trainer.logits(users_UK[block]),
    )


def write_item_test(path: Path, ranks: CatalogueRanks, test: NextItemSamples, data: PreparedData) -> None:
    """Writes the ranks of every test user in the whole catalogue."""
    by_user = np.argsort(test.user_ids, kind="stable")
    users = test.user_ids[by_user]
    table = pl.DataFrame(
        {
            USER_ID: users,
            USER: [data.users[int(user)] for user in users],
            LABEL_ID: test.labels[by_user].astype(np.int32),
            RETRIEVER_RANK: ranks.known[by_user].astype(np.int32),
            FIRST_STAGE_RANK: ranks.known[by_user].astype(np.int32),
            LETTERS_RANK: ranks.new[by_user].astype(np.int32),
            FINAL_RANK: ranks.final[by_user].astype(np.int32),
        }
    )
    with replacing(path) as staging:
        write_parquet(table, staging)
