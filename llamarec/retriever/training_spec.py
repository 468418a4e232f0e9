"""The trainings of one retriever: its own, and one for each fold of users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """One of a retriever's trainings; the defaults are its own.

    Attributes:
        users: [number of users] ids of the users to train on; None: all.
        is_validated: Early stopping applies and the best epoch's weights are the result. Otherwise the training has
            exactly `num_epochs` epochs, and the last one's weights are the result.
        prefix: Start of everything the training prints.
        mark: Its part of the training's identity.
        hint: What to do when its training state is damaged.
    """

    users: NDArray[np.int64] | None = None
    is_validated: bool = True
    prefix: str = ""
    mark: Mapping[str, object] = field(default_factory=dict)
    hint: str | None = None


OWN_TRAINING: Final = TrainingSpec()


def fold_spec(name: str, *, users: NDArray[np.int64]) -> TrainingSpec:
    """The training that leaves out one fold of users.

    Args:
        name: The fold, such as "1 of 2".
        users: Ids of the users of all other folds.
    """
    return TrainingSpec(
        users=users,
        is_validated=False,
        prefix=f"fold {name}, ",
        mark={"fold": name},
        hint="remove the file: only this fold is trained again",
    )
