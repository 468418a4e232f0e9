"""What a row of the matrix trains: a name, and how its Trainer is made, or who judges it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transformers import Trainer, TrainerCallback, set_seed

from llamarec.checkpoints import CheckpointConfig, ResumableMixin
from tests.resume.training import make_args
from tests.resume.worker_data import Seen, Words

STEPS: Final = 8
"""Of every training, which is saved after 2, 4, 6 and 8, and killed after 5."""

TrainerClass = type[Trainer]
MakesTrainer = Callable[[Path, TrainerClass, TrainerCallback], Trainer]


@dataclass(frozen=True)
class Subject:
    """A row.

    Attributes:
        name: Shown.
        make: The Trainer of (folder, Trainer class, a callback that watches), seeded.
    """

    name: str
    make: MakesTrainer


@dataclass(frozen=True)
class Judged:
    """A row that other tests' own trainings judge, without a plain Trainer beside it.

    Attributes:
        name: Shown.
        judge: Trains, stops and resumes; returns "equal", or a text after "refused: ".
    """

    name: str
    judge: Callable[[], str]


def subject(name: str, model: Callable[[], Any], **arguments: Any) -> Subject:
    """A row whose model and training arguments are all that is special.

    Args:
        name: Shown.
        model: Makes the model; called after seeding.
        arguments: Of `TrainingArguments`.
    """

    def make(folder: Path, cls: TrainerClass, watch: TrainerCallback) -> Trainer:
        set_seed(1)
        return cls(
            model=model(),
            args=arguments_of(folder, **arguments),
            train_dataset=Words(noisy=False),
            eval_dataset=Words(8, noisy=False),
            data_collator=Seen(noisy=False),
            callbacks=[watch],
            **own_arguments(cls),
        )

    return Subject(name, make)


def arguments_of(folder: Path, **changes: Any) -> Any:
    """Training arguments of a row: eight steps, four saves, no validation."""
    common = {
        "max_steps": STEPS,
        "save_steps": 2,
        "save_total_limit": None,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "logging_steps": 1,
    }
    return make_args(folder, **{**common, **changes})


def own_arguments(cls: TrainerClass) -> dict[str, Any]:
    """What only a resumable Trainer takes: saves in the foreground, so that every row is killed after the same one."""
    if not issubclass(cls, ResumableMixin):
        return {}

    return {"checkpoint_config": CheckpointConfig(background_saves=False)}
