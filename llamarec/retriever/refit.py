"""The models that answer after the validation part: trained once more, with that part.

Validation chooses options and the number of epochs. Then its interactions are as good as any others, and the latest
that are known. A model that has not seen them is a period older than experts that only count, and under a cut in time
its weight, fitted on questions of its own day, is too large for those of the next period.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from rich.console import Console

from llamarec.data.prepared import PreparedData
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.training_spec import TrainingSpec

REFIT_FOLDER: Final = "refit"
"""Has the training states."""


def refitted(
    data: PreparedData,
    config: RetrieverConfig,
    folder: Path,
    console: Console,
    trainers: Sequence[RetrieverTrainer],
) -> list[RetrieverTrainer]:
    """Trains each member once more with the validation part, or continues it; none where the options want none.

    Args:
        data: Prepared data.
        config: Options.
        folder: Folder of the retriever; the training states are in a subfolder.
        console: Receives the progress.
        trainers: The members, trained.
    """
    if not config.refits(data.has_cut):
        return []

    seconds = sum(one.state.seconds / max(one.state.epoch, 1) * one.state.best_epoch for one in trainers)
    console.print(
        f"training once more with the validation part: about {timedelta(seconds=round(seconds))} (--refit never skips "
        "this)",
        soft_wrap=True,
    )
    later = with_validation(data)
    return [
        _refit(later, replace(config, seed=config.seed + number - 1), folder, console, number, one.state.best_epoch)
        for number, one in enumerate(trainers, start=1)
    ]


def with_validation(data: PreparedData) -> PreparedData:
    """The data with the validation part in the training part."""
    return replace(data, sequences=replace(data.sequences, train_ends=data.sequences.validation_ends))


def _refit(
    later: PreparedData, config: RetrieverConfig, folder: Path, console: Console, number: int, num_epochs: int
) -> RetrieverTrainer:
    spec = TrainingSpec(
        is_validated=False,
        prefix="with validation, " if number == 1 else f"member {number} with validation, ",
        mark={"refit": "validation", "member": number},
        hint="remove the file: only this model is trained again",
    )
    own = folder / REFIT_FOLDER / str(number)
    trainer = RetrieverTrainer(later, replace(config, num_epochs=num_epochs), own, console, spec=spec)
    trainer.fit()
    return trainer
