"""An exception after a validation: what it has moved is put back, and moved once by the resume."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from llamarec.checkpoints.trainer.guards.versions import METRIC_SCHEDULERS
from llamarec.checkpoints.trainer.state.rates import Rates
from tests.resume.runs import At
from tests.resume.training import make_trainer, state_of

EVERY_STEP: dict[str, Any] = {
    "num_samples": 24, "noisy": False, "max_steps": 6, "save_steps": 1, "eval_steps": 1, "logging_steps": 1,
    "learning_rate": 0.2, "warmup_steps": 0,
}  # fmt: skip
PLATEAU = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5}}
GREEDY = {
    "lr_scheduler_type": "greedy",
    "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "smooth": True, "min_lr": 1e-4},
}


class Slower(TrainerCallback):
    """Changes the optimizer by hand after each validation."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for group in kwargs["optimizer"].param_groups:
            group["weight_decay"] = group["weight_decay"] * 2 + 0.01


def _fail() -> None:
    raise OSError("upload failed")


@pytest.mark.parametrize(
    "changes",
    [
        PLATEAU,
        pytest.param(GREEDY, marks=pytest.mark.skipif(len(METRIC_SCHEDULERS) < 2, reason="came with 5.4")),
        {"lr_scheduler_type": "constant"},
    ],
    ids=["plateau", "greedy", "by hand"],
)
def test_a_validation_before_an_exception_counts_once(changes: dict[str, Any], tmp_path: Path) -> None:
    more = {**EVERY_STEP, **changes}

    def make(name: str, *callbacks: TrainerCallback) -> Any:
        return make_trainer(tmp_path / name, callbacks=(Slower(), *callbacks), patience=100, **more)

    whole = make("whole")
    whole.train()
    with pytest.raises(OSError, match="upload failed"):
        make("run", At(3, "on_save", _fail)).train()
    resumed = make("run")
    resumed.train("latest")

    assert state_of(tmp_path / "run/checkpoint-6") == state_of(tmp_path / "whole/checkpoint-6")
    ends = [one.optimizer.param_groups[0]["weight_decay"] for one in (resumed, whole)]
    assert ends[0] == ends[1]
    if changes is PLATEAU:
        assert whole.optimizer.param_groups[0]["lr"] < EVERY_STEP["learning_rate"]


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [lambda: sys.exit(3), _interrupt], ids=["exit", "interrupt"])
@pytest.mark.parametrize("event", ["on_step_end", "on_evaluate"])
def test_whatever_ends_a_training_costs_no_step(end: Callable[[], None], event: str, tmp_path: Path) -> None:
    more = {**EVERY_STEP, "save_steps": 100, "max_steps": 4}
    make_trainer(tmp_path / "whole", **more).train()
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        make_trainer(tmp_path / "run", callbacks=(At(2, event, end),), **more).train()
    assert (tmp_path / "run/checkpoint-2/manifest.json").is_file()
    make_trainer(tmp_path / "run", **more).train("latest")
    assert state_of(tmp_path / "run/checkpoint-4") == state_of(tmp_path / "whole/checkpoint-4")


def test_a_rate_in_a_tensor_stays_the_same_tensor(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, **{**EVERY_STEP, "max_steps": 1})
    trainer.train()
    rate = trainer.optimizer.param_groups[0]["lr"] = torch.tensor(0.5)
    before = Rates.of(trainer)
    rate.fill_(0.1)
    before.put_into(trainer)
    assert trainer.optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == 0.5
