"""Callbacks of a ranker's training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainingArguments


class OnTrainBegin(TrainerCallback):
    """Runs an action when training begins, that is when nothing can refuse the run any more."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """As the Trainer calls it."""
        if args.process_index == 0:
            self._action()
