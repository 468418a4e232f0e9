"""The ranker's training lists by retrievers that have not seen what is asked there.

A retriever knows the items that it was trained on: asked about its own training places it proposes the right one
several times as often as for validation and test, and what stands beside the right one there is more alike to the
history than at evaluation (docs/decisions/0009-ranker-quality.md). So the users are split into parts, and each part's
lists come from a further retriever, trained on the users of all others: cross-fitting (Chernozhukov et al. 2018,
"Double/debiased machine learning for treatment and structural parameters", section 3), as stacking does it (Wolpert
1992, "Stacked generalization").

Each is trained for as many epochs as the retriever's best one. Nothing else that it is made of knows the part's users.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from llamarec.data.prepared import PreparedData
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer, without_part
from llamarec.retriever.hard_negatives import TrainingLists, hard_negatives
from llamarec.retriever.model import LRURec

FOLDS_FOLDER: Final = "folds"
# The purpose of a random draw is part of its key; 1: batches.py.
_PARTS_STREAM: Final = 2


def cross_fitted_lists(
    data: PreparedData, config: RetrieverConfig, folder: Path, console: Console, *, num_epochs: int
) -> TrainingLists:
    """Trains a retriever for each part (or goes on) and lists what it proposes to the part's users.

    Args:
        data: Prepared.
        config: Of the retriever; `hard_negative_folds` parts.
        folder: Of the retriever; the folds' training states lie in a folder inside.
        console: For progress.
        num_epochs: Of each training.
    """
    parts_U = parts_of(data.num_users, config.hard_negative_folds, config.seed)
    of_places_P = np.repeat(parts_U, data.sequences.num_training_positions())
    num_places = len(of_places_P)
    whole = TrainingLists(
        np.zeros((num_places, config.top_k), np.int32),
        np.zeros(num_places, np.int32),
        num_folds=config.hard_negative_folds,
    )
    for part in np.unique(parts_U):
        name = f"{part + 1} of {config.hard_negative_folds}"
        own_folder = folder / FOLDS_FOLDER / name.replace(" ", "-")
        course, shorter = without_part(name, np.flatnonzero(parts_U != part)), replace(config, num_epochs=num_epochs)
        trainer = RetrieverTrainer(data, shorter, own_folder, console, course=course)
        trainer.fit()
        of_part = lists_from_model(trainer.model, data, config, users=np.flatnonzero(parts_U == part).tolist())
        whole.items_PK[of_places_P == part] = of_part.items_PK
        whole.label_ranks_P[of_places_P == part] = of_part.label_ranks_P
        # Before the next model is made.
        del trainer
    return whole


def lists_from_model(
    model: LRURec, data: PreparedData, config: RetrieverConfig, users: Iterable[int] | None = None
) -> TrainingLists:
    """What a model trained with these options proposes to users (None: to all)."""
    exclude = config.excludes(data.has_repeats)
    return hard_negatives(model, data, config.top_k, max_length=config.max_length, exclude=exclude, users=users)


def remove_other_folds(folder: Path, num_folds: int) -> None:
    """Removes the states of retrievers of another number of parts, once there are lists of this one."""
    for one in (folder / FOLDS_FOLDER).glob("*-of-*"):
        if not one.name.endswith(f"-of-{num_folds}"):
            shutil.rmtree(one)
    with contextlib.suppress(OSError):
        # Empty, or not there.
        (folder / FOLDS_FOLDER).rmdir()


def parts_of(num_users: int, num_parts: int, seed: int) -> NDArray[np.int64]:
    """[num_users] the part of each user, from 0; as equal as can be, and a function of the seed alone."""
    return np.random.default_rng([seed, _PARTS_STREAM]).permutation(num_users) % num_parts
