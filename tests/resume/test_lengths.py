"""Ends that are no early stop, rates that are no function of the step, another metric, a second save of a step."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.verification import verify
from llamarec.checkpoints.trainer.signals import Interrupted
from llamarec.errors import CheckpointError
from tests.resume.runs import epoch_orders, quiet_trainer, samples_in, stopped
from tests.resume.training import digest, make_trainer


class StopsAt(TrainerCallback):
    """As a time limit does."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_training_stop = control.should_training_stop or state.global_step == self._step
        return control


def test_an_end_inside_an_epoch_is_extended_from_there(tmp_path: Path) -> None:
    log = tmp_path / "seen"
    epochs: dict[str, Any] = {"save_strategy": "epoch"}
    quiet_trainer(tmp_path / "run", seen=log, max_steps=5, **epochs).train()
    trainer = quiet_trainer(tmp_path / "run", seen=log, num_train_epochs=2.0, **epochs)
    trainer.train("latest")
    assert samples_in(log) == epoch_orders(trainer, 2)


def test_a_stop_by_another_callback_ends_with_its_process(tmp_path: Path) -> None:
    quiet_trainer(tmp_path, callbacks=(StopsAt(4),)).train()
    trainer = quiet_trainer(tmp_path)
    trainer.train("latest")
    assert trainer.state.global_step == trainer.state.max_steps > 4


def test_a_reduced_rate_stays_reduced(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0}}
    changes |= {"noisy": False, "learning_rate": 5.0, "patience": 99, "eval_steps": 1, "save_steps": 3}
    whole = make_trainer(tmp_path / "whole", **changes)
    whole.train()
    stopped(make_trainer(tmp_path / "run", **changes), 9)
    resumed = make_trainer(tmp_path / "run", **changes)
    resumed.train("latest")
    rates = [[row["learning_rate"] for row in t.state.log_history if "loss" in row] for t in (whole, resumed)]
    assert rates[0] == rates[1]
    assert min(rates[0]) < 5.0


def test_another_metric_starts_its_own_best(tmp_path: Path) -> None:
    stopped(make_trainer(tmp_path, noisy=False), 6)
    trainer = make_trainer(tmp_path, noisy=False, metric_for_best_model="runtime", greater_is_better=True)
    trainer.train("latest")
    runtimes = [row["eval_runtime"] for row in trainer.state.log_history if "eval_loss" in row and row["step"] >= 6]
    assert trainer.state.best_metric == max(runtimes)


def test_a_damaged_second_save_of_a_step_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamarec.checkpoints.storage.layout import RunFolder
    from llamarec.checkpoints.storage.manifest import read_manifest
    from llamarec.checkpoints.storage.publish import Staging, publish

    run = RunFolder(tmp_path)
    stopped(quiet_trainer(tmp_path), 3)
    manifest = read_manifest(run.checkpoint(3))
    assert manifest is not None

    def fill(staging: Staging) -> None:
        staging.write("adapter_model.bin", b"new")

    def flip(effect: str, path: Path) -> None:
        if effect == "fsync" and path == run.saving(3):
            (path / "adapter_model.bin").write_bytes(b"nex")

    monkeypatch.setattr(durable, "observer", flip)
    with pytest.raises(CheckpointError, match="reads back differently from what was written"):
        publish(run, manifest, fill)
    monkeypatch.setattr(durable, "observer", None)
    assert verify(run.checkpoint(3)).health == "good"


def test_running_means_go_back_with_a_step_that_is_given_up(tmp_path: Path) -> None:
    class Wavering(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norm, self.out = torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
            return {"loss": self.out(self.norm(input_ids.float())).square().mean()}

    class GivenUp(TrainerCallback):
        """Asks for a stop between the micro-batches of the fourth step."""

        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    changes: dict[str, Any] = {
        "noisy": False,
        "save_steps": 100,
        "load_best_model_at_end": False,
        "eval_strategy": "no",
    }
    changes |= {"metric_for_best_model": None, "save_total_limit": None}
    whole = quiet_trainer(tmp_path / "whole", model=Wavering(), **changes)
    whole.train()
    with pytest.raises(Interrupted):
        quiet_trainer(tmp_path / "run", model=Wavering(), callbacks=(GivenUp(),), **changes).train()
    resumed = quiet_trainer(tmp_path / "run", model=Wavering(), **changes)
    resumed.train("latest")
    ends = [{name: digest(value) for name, value in t.model.state_dict().items()} for t in (resumed, whole)]
    assert ends[0] == ends[1]


def test_a_length_that_is_done_already_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped(quiet_trainer(tmp_path), 6)
    capsys.readouterr()
    trainer = quiet_trainer(tmp_path, max_steps=4)
    trainer.train("latest")
    said = " ".join(capsys.readouterr().out.split())
    assert "max_steps -1 -> 4 (that many are done already)" in said
    assert "To continue: --max_steps above 6, not 4" in said
    assert "num_train_epochs" not in said
    assert trainer.state.global_step == 6
