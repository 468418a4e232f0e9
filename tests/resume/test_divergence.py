"""A training that diverges ends with an error and keeps what was good; a metric of NaN never chooses the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from llamarec.checkpoints.resume.safe_load import load_weights
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.verification import verify
from llamarec.checkpoints.trainer.resumable import ResumableTrainer
from llamarec.errors import DivergedError
from tests.resume.training import make_trainer

SPOILED_STEP = 5


class Ending(ResumableTrainer):
    """Ends where it diverges."""

    ends_when_diverged = True


class Spoils(TrainerCallback):
    """Does something to the model before or after a step."""

    def __init__(self, event: str, spoil: Callable[[torch.nn.Parameter], object]) -> None:
        self._event, self._spoil = event, spoil

    def _run(self, state: Any, model: Any) -> None:
        if state.global_step == SPOILED_STEP:
            with torch.no_grad():
                self._spoil(next(one for one in model.parameters() if one.requires_grad))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._event == "begin":
            self._run(state, kwargs["model"])

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._event == "update":
            self._run(state, kwargs["model"])


class SpoiledLoss(Ending):
    """One loss of the training is replaced by a factor times itself."""

    factor = math.nan
    gradient_only = False

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
        if self.state.global_step == SPOILED_STEP and model.training:
            if self.gradient_only:
                loss.register_hook(lambda gradient: gradient * math.nan)
            else:
                loss = loss * self.factor
        return loss


def _weights_are_finite(folder: Path) -> bool:
    weights = load_weights(folder) or {}
    return bool(weights) and all(bool(torch.isfinite(one).all()) for one in weights.values())


@pytest.mark.parametrize(
    "case", ["loss nan", "loss inf", "gradient nan", "weight nan before a step", "weight inf after an update"]
)
def test_what_is_not_finite_ends_the_training_and_is_not_saved(case: str, tmp_path: Path) -> None:
    cls = SpoiledLoss if case.startswith(("loss", "gradient")) else Ending
    # Saved at every step: the update that spoils the weights would be, too.
    trainer = make_trainer(tmp_path, cls=cls, save_steps=1, eval_steps=1)
    if isinstance(trainer, SpoiledLoss):
        trainer.factor = math.inf if case == "loss inf" else math.nan
        trainer.gradient_only = case == "gradient nan"
    if case == "weight nan before a step":
        trainer.add_callback(Spoils("begin", lambda one: one.fill_(math.nan)))
    if case == "weight inf after an update":
        trainer.add_callback(Spoils("update", lambda one: one.fill_(math.inf)))

    with pytest.raises(DivergedError, match=r"(?s)diverged.*--resume_from_checkpoint --learning_rate 0\.0005"):
        trainer.train()

    checkpoints = RunFolder(tmp_path).checkpoints()
    assert [path.name for path in checkpoints][-1] == f"checkpoint-{SPOILED_STEP}"
    assert all(verify(path).health == "good" and _weights_are_finite(path) for path in checkpoints)


def test_a_trainer_that_did_not_ask_for_it_goes_on(tmp_path: Path) -> None:
    class GoesOn(SpoiledLoss):
        ends_when_diverged = False

    trainer = make_trainer(tmp_path, cls=GoesOn, max_steps=SPOILED_STEP + 2)
    trainer.train()
    assert trainer.state.global_step == SPOILED_STEP + 2


@pytest.mark.parametrize("greater", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("first", [True, False])
def test_a_metric_that_is_no_number_never_chooses_the_best(
    first: bool, bad: float, greater: bool, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, metric_for_best_model="score", greater_is_better=greater)
    values = [bad, 1.0, bad] if first else [1.0, bad, bad]

    chosen = []
    trainer._resumable.set_up(None)
    with trainer._resumable.trained_in(RunFolder(tmp_path), None):
        for step, value in enumerate(values, start=1):
            trainer.state.global_step = step
            chosen.append(trainer._determine_best_metric({"eval_score": value}, None))

    assert chosen == [value == 1.0 for value in values]
    assert trainer.state.best_metric == 1.0


def test_a_best_metric_of_nan_from_before_is_forgotten(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, metric_for_best_model="score", greater_is_better=True)
    trainer.state.best_metric = math.nan
    trainer._resumable.set_up(None)
    with trainer._resumable.trained_in(RunFolder(tmp_path), None):
        assert trainer._determine_best_metric({"eval_score": 0.1}, None)
