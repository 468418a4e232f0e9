"""Models that are trained once more, on all that is known when they are asked.

Validation chooses options and the number of epochs. Then its interactions are as good as any others, and the latest
that are known. A model that has not seen them is a period older than experts that only count, and under a cut in time
its weight, fitted on questions of its own day, is too large for those of the next period. For a question of today, that
holds of the test part too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from llamarec.data.prepared import PreparedData
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.members import remove_beyond
from llamarec.retriever.training_spec import TrainingSpec
from llamarec.vocabulary import Asked

_FOLDER: Final = "refit"
_TIMES: Final[Mapping[Asked, str]] = {"test": "with validation", "now": "on everything"}
"""What a training is called, by the questions that its model answers."""


def refitted(
    asked: Asked,
    data: PreparedData,
    config: RetrieverConfig,
    folder: Path,
    console: Console,
    trainers: Sequence[RetrieverTrainer],
) -> list[RetrieverTrainer]:
    """Trains each member once more, or continues it.

    Args:
        asked: Which questions the models are for: `test` or `now`.
        data: Prepared data.
        config: Options.
        folder: Folder of the retriever; the training states are in a subfolder.
        console: Receives the progress.
        trainers: The members, trained.
    """
    seconds = sum(one.state.seconds_to_best for one in trainers)
    console.print(
        f"training once more {_TIMES[asked]}: about {timedelta(seconds=round(seconds))} (--refit never skips this)",
        soft_wrap=True,
    )
    later = trained_before(asked, data)
    again = []
    for number, one in enumerate(trainers, start=1):
        spec = TrainingSpec(
            is_validated=False,
            prefix=f"{_TIMES[asked]}, " if number == 1 else f"member {number} {_TIMES[asked]}, ",
            mark={"refit": asked, "member": number},
            hint="remove the file: only this model is trained again",
        )
        seeded = replace(config, seed=config.seed + number - 1, num_epochs=one.state.best_epoch)
        trainer = RetrieverTrainer(later, seeded, refit_folder(folder, asked) / str(number), console, spec=spec)
        trainer.fit()
        again.append(trainer)
    return again


def trained_before(asked: Asked, data: PreparedData) -> PreparedData:
    """The data with all that is known at these questions as the training part."""
    sequences = data.sequences
    ends = {
        "validation": sequences.train_ends,
        "test": sequences.validation_ends,
        "now": np.diff(sequences.offsets).astype(sequences.train_ends.dtype),
    }
    return replace(data, sequences=replace(sequences, train_ends=ends[asked]))


def refit_folder(folder: Path, asked: Asked) -> Path:
    """Has the training states of the models for these questions."""
    return folder / _FOLDER / asked


def remove_other_refits(folder: Path, numbers: Mapping[Asked, int]) -> None:
    """Removes the training states beyond the numbers of models, once the files of these are written."""
    for asked in _TIMES:
        remove_beyond(refit_folder(folder, asked), numbers.get(asked, 0))
    remove_beyond(folder / _FOLDER, 0)
