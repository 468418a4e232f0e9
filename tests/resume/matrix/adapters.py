"""Every method of PEFT, over a small Llama, and the ways to have several adapters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from transformers import Trainer, TrainerCallback

from tests.resume import peft_methods
from tests.resume.matrix.subjects import Subject, TrainerClass, subject

TITLE: Final = "Adapters: the methods of PEFT"


def subjects() -> Iterator[Subject]:
    """One for each method of PEFT's registry, and for each variant."""
    for name, model in peft_methods.methods().items():
        yield _adapted(name, model)


def _adapted(name: str, model: peft_methods.Make) -> Subject:
    trained = subject(name, model)

    def make(folder: Path, cls: TrainerClass, watch: TrainerCallback) -> Trainer:
        trainer = trained.make(folder, cls, watch)
        trainer.add_callback(peft_methods.Allocates())
        if peft_methods.has_tasks(trainer.model):
            trainer.data_collator = peft_methods.Tasks(noisy=False)
        return trainer

    return Subject(name, make)
