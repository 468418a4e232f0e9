"""Progress of a training: a bar on a terminal, lines in a file or a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llamarec.retriever.state import TrainingState

LINE_SECONDS: Final = 30.0  # between lines inside an epoch; each epoch ends with a line


class FitProgress:
    """Progress of one `fit`, as a context manager.

    Args:
        console: Receives the bar or the lines.
        state: State of the training; read only.
        num_epochs: Largest number of epochs.
        prefix: Start of lines and bar, which tells several trainings apart.
        clock: Time in seconds.
    """

    def __init__(
        self,
        console: Console,
        state: TrainingState,
        num_epochs: int,
        prefix: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._state, self._num_epochs, self._clock = console, state, num_epochs, clock
        self._prefix = prefix
        self._bar = _bar(console)
        self._task = self._bar.add_task(f"{prefix}LRURec", total=num_epochs, completed=state.epoch, shown="")
        self._first_epoch, self._started, self._printed = state.epoch, clock(), clock()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stepped(self, step: int, num_steps: int, mean_loss: float) -> None:
        """Reports a step of an epoch, counted from 1; `mean_loss` is the epoch's so far."""
        if self._console.is_terminal or self._clock() - self._printed < LINE_SECONDS:
            return
        epoch = f"{self._prefix}epoch {self._state.epoch + 1} of {self._num_epochs}, step {step:,} of {num_steps:,}"
        best = f"  {_best(self._state)}" if _is_validated(self._state) else ""
        self._print(f"{epoch}  loss {mean_loss:.3f}{best}  {self._left(self._state.epoch + step / num_steps)}")

    def epoch_done(self, *, is_last: bool) -> None:
        """Reports an epoch, once the state has it."""
        shown = _last_epoch(self._state)
        self._bar.update(self._task, completed=self._state.epoch, shown=shown)
        if not self._console.is_terminal:
            left = "" if is_last else f"  {self._left(self._state.epoch)}"
            self._print(f"{self._prefix}epoch {self._state.epoch} of {self._num_epochs}  {shown}{left}")

    def _left(self, epochs: float) -> str:
        """Longest time left, at the pace of this process; early stopping shortens it."""
        pace = (self._clock() - self._started) / (epochs - self._first_epoch)
        return f"at most {timedelta(seconds=round(pace * (self._num_epochs - epochs)))} left"

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
        self._printed = self._clock()


def _is_validated(state: TrainingState) -> bool:
    return bool(state.history) and "recall@10" in state.history[-1]


def _last_epoch(state: TrainingState) -> str:
    last = state.history[-1]
    if not _is_validated(state):
        return f"loss {last['loss']:.3f}"
    metrics = f"validation Recall@10 {last['recall@10']:.4f} NDCG@10 {last['ndcg@10']:.4f}"
    return f"loss {last['loss']:.3f}  {metrics}  {_best(state)}"


def _best(state: TrainingState) -> str:
    return f"best {state.best_recall:.4f} at {state.best_epoch}"


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[shown]}"),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)
