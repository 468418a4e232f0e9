"""The models of a retriever: one, or several that differ in their seed and are averaged.

A mean of models that were trained alike from different seeds is better than each of them (Lakshminarayanan et al. 2017,
"Simple and scalable predictive uncertainty estimation using deep ensembles").
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console

from llamarec.checkpoints.storage import durable
from llamarec.data.prepared import PreparedData
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.training_spec import TrainingSpec
from llamarec.vocabulary import Asked

MEMBERS_FOLDER: Final = "members"


def further_members(
    data: PreparedData, config: RetrieverConfig, folder: Path, console: Console
) -> list[RetrieverTrainer]:
    """Trains all members but the first, or continues them.

    Args:
        data: Prepared data.
        config: Options; `num_members` models.
        folder: Folder of the retriever; the members' training states are in a subfolder.
        console: Receives the progress.
    """
    trainers = []
    for number in range(2, config.num_members + 1):
        spec = TrainingSpec(
            prefix=f"member {number} of {config.num_members}, ",
            mark={"member": number},
            hint="remove the file: only this member is trained again",
        )
        seeded = replace(config, seed=config.seed + number - 1)
        trainer = RetrieverTrainer(data, seeded, folder / MEMBERS_FOLDER / str(number), console, spec=spec)
        trainer.fit()
        trainers.append(trainer)
    return trainers


def member_weights(first: Path, number: int, asked: Asked = "validation") -> Path:
    """File of a member's weights.

    Args:
        first: File of the first member's.
        number: Counted from 1.
        asked: The questions that it was trained for.
    """
    parts = [first.stem, *([str(number)] if number > 1 else []), *([asked] if asked != "validation" else [])]
    return first.with_stem("-".join(parts))


def remove_beyond(folder: Path, number: int) -> None:
    """Removes the training states of models beyond a number, once the files of those up to it are written.

    Args:
        folder: Has one subfolder for each model, named by its number.
        number: Of the last that is kept.
    """
    for one in folder.glob("*"):
        if one.name.isdecimal() and int(one.name) > number:
            durable.remove(one)
    with contextlib.suppress(OSError):
        # Succeeds only where the folder is there and empty.
        folder.rmdir()
