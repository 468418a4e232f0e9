"""What a training says where there is no terminal."""

from __future__ import annotations

import io
from dataclasses import dataclass

from rich.console import Console

from llamarec.retriever.progress import FitProgress
from llamarec.retriever.state import TrainingState


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def _validate(state: TrainingState, recall: float) -> None:
    state.epoch += 1
    state.history.append({"loss": 5.0, "recall@10": recall, "ndcg@10": recall / 2})
    if recall > state.best_recall:
        state.best_recall, state.best_epoch = recall, state.epoch


def test_a_long_epoch_says_where_it_is_every_half_minute() -> None:
    clock, state, file = Clock(), TrainingState({}), io.StringIO()
    with FitProgress(Console(file=file, width=40), state, 10, clock=clock) as progress:
        for step in range(1, 101):
            clock.now += 1
            progress.stepped(step, 100, 6.0)
        _validate(state, 0.2)
        progress.epoch_done(is_last=False)
        clock.now += 31
        progress.stepped(1, 2, 4.0)
    assert file.getvalue().splitlines() == [
        # 30 s for 0.3 of 10 epochs: 970 s for the rest.
        "epoch 1 of 10, step 30 of 100  loss 6.000  at most 0:16:10 left",
        "epoch 1 of 10, step 60 of 100  loss 6.000  at most 0:15:40 left",
        "epoch 1 of 10, step 90 of 100  loss 6.000  at most 0:15:10 left",
        "epoch 1 of 10  loss 5.000  validation Recall@10 0.2000 NDCG@10 0.1000  best 0.2000 at 1  at most 0:15:00 left",
        # 131 s for 1.5 epochs: 742 s for 8.5.
        "epoch 2 of 10, step 1 of 2  loss 4.000  best 0.2000 at 1  at most 0:12:22 left",
    ]


def test_each_validation_has_a_line_and_the_last_one_no_time_left() -> None:
    clock, state, file = Clock(), TrainingState({}), io.StringIO()
    for recall in (0.1, 0.3):
        _validate(state, recall)
    with FitProgress(Console(file=file), state, 4, clock=clock) as progress:
        for recall, is_last in ((0.2, False), (0.25, True)):
            clock.now += 5
            progress.stepped(1, 1, 6.0)
            _validate(state, recall)
            progress.epoch_done(is_last=is_last)
    assert file.getvalue().splitlines() == [
        # Resumed at epoch 2: the pace is that of this process alone.
        "epoch 3 of 4  loss 5.000  validation Recall@10 0.2000 NDCG@10 0.1000  best 0.3000 at 2  at most 0:00:05 left",
        "epoch 4 of 4  loss 5.000  validation Recall@10 0.2500 NDCG@10 0.1250  best 0.3000 at 2",
    ]


def test_on_a_terminal_there_is_the_bar_and_no_line() -> None:
    clock, state, file = Clock(), TrainingState({}), io.StringIO()
    with FitProgress(Console(file=file, force_terminal=True, width=120), state, 1, clock=clock) as progress:
        clock.now += 100
        progress.stepped(1, 1, 6.0)
        _validate(state, 0.2)
        progress.epoch_done(is_last=True)
    assert "epoch 1" not in file.getvalue()
    assert "best 0.2000 at 1" in file.getvalue()
