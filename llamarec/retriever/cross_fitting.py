"""The ranker's training lists from retrievers that were not trained on the users of the lists.

A retriever knows the items it was trained on. At its own training positions it proposes the label several times as
often as on validation and test, and the other items are more similar to the history than at evaluation
(docs/decisions/0009-ranker-quality.md). So the users are split into folds, and the lists of each fold come from a
further retriever, trained on the users of all other folds: cross-fitting (Chernozhukov et al. 2018, "Double/debiased
machine learning for treatment and structural parameters", section 3), as in stacking (Wolpert 1992, "Stacked
generalization").

Each one is trained for as many epochs as the retriever's best epoch. Nothing else in it depends on the fold's users.
The experts that count interactions count those of the other folds; counting takes seconds, so they do even where the
retriever's own lists are wanted.

    U users, P training positions
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from llamarec.checkpoints.storage import durable
from llamarec.data.prepared import PreparedData
from llamarec.experts.expert_sum import ExpertSum
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.hard_negatives import TrainingLists
from llamarec.retriever.mining import mine_hard_negatives
from llamarec.retriever.model import LRURec
from llamarec.retriever.training_spec import fold_spec

FOLDS_FOLDER: Final = "folds"
SumForUsers = Callable[[NDArray[np.bool_]], ExpertSum]
"""The sum of experts that count the interactions of some users, given as [num_users]."""

# The purpose of a random draw is part of its key; 1: batches.py.
_FOLDS_STREAM: Final = 2
_FEWEST_FOLDS: Final = 2


def cross_fitted_lists(
    data: PreparedData,
    config: RetrieverConfig,
    folder: Path,
    console: Console,
    *,
    num_epochs: int,
    order: SumForUsers | None = None,
) -> TrainingLists:
    """Trains a retriever for each fold, or continues it, and lists what it proposes to the fold's users.

    Args:
        data: Prepared data.
        config: Options of the retriever; `hard_negative_folds` folds.
        folder: Folder of the retriever; the folds' training states are in a subfolder.
        console: Receives the progress.
        num_epochs: Epochs of each training.
        order: The sum that the retriever is a part of; None: the retriever alone.
    """
    folds_U = folds_of_users(data.num_users, config.hard_negative_folds, config.seed)
    lists = _empty(data, config)._replace(num_folds=config.hard_negative_folds)

    for fold in np.unique(folds_U):
        name = f"{fold + 1} of {config.hard_negative_folds}"
        spec = fold_spec(name, users=np.flatnonzero(folds_U != fold))
        fold_folder = folder / FOLDS_FOLDER / name.replace(" ", "-")
        trainer = RetrieverTrainer(data, replace(config, num_epochs=num_epochs), fold_folder, console, spec=spec)
        trainer.fit()

        _fill(lists, [trainer.trained()], data, config, folds_U == fold, order)
        # Frees the model before the next one is made.
        del trainer

    return lists


def lists_from_retriever(
    models: Sequence[LRURec], data: PreparedData, config: RetrieverConfig, order: SumForUsers | None = None
) -> TrainingLists:
    """Lists by the retriever itself, which was trained on their labels; what is counted is of other users.

    Args:
        models: Its members.
        data: Prepared data.
        config: Options of the retriever.
        order: See `cross_fitted_lists`.
    """
    lists = _empty(data, config)
    folds_U = folds_of_users(data.num_users, min(_FEWEST_FOLDS, data.num_users), config.seed)
    for fold in np.unique(folds_U):
        _fill(lists, models, data, config, folds_U == fold, order)
    return lists


def _empty(data: PreparedData, config: RetrieverConfig) -> TrainingLists:
    num_positions = int(data.sequences.num_training_positions().sum())
    return TrainingLists(np.zeros((num_positions, config.top_k), np.int32), np.zeros(num_positions, np.int32))


def _fill(
    lists: TrainingLists,
    models: Sequence[LRURec],
    data: PreparedData,
    config: RetrieverConfig,
    users_U: NDArray[np.bool_],
    order: SumForUsers | None,
) -> None:
    """Makes the lists of some users, by experts that count the interactions of all others."""
    found = mine_hard_negatives(
        models,
        data,
        config.top_k,
        max_length=config.max_length,
        exclude=config.excludes(data.has_repeats),
        users=np.flatnonzero(users_U).tolist(),
        order=order(~users_U) if order is not None else None,
    )
    positions = np.repeat(users_U, data.sequences.num_training_positions())
    lists.items_PK[positions], lists.label_ranks_P[positions] = found.items_PK, found.label_ranks_P


def remove_other_folds(folder: Path, num_folds: int) -> None:
    """Removes the training states of another number of folds, once the lists of this number are written."""
    for one in (folder / FOLDS_FOLDER).glob("*-of-*"):
        if not one.name.endswith(f"-of-{num_folds}"):
            durable.remove(one)
    with contextlib.suppress(OSError):
        # Succeeds only where the folder is there and empty.
        (folder / FOLDS_FOLDER).rmdir()


def folds_of_users(num_users: int, num_folds: int, seed: int) -> NDArray[np.int64]:
    """[num_users] fold of each user, from 0; sizes differ by one at most, and the seed alone decides."""
    return np.random.default_rng([seed, _FOLDS_STREAM]).permutation(num_users) % num_folds
