"""Layers that a callback freezes or opens once, on the way, are frozen or open after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from llamarec.checkpoints import ResumableTrainer
from llamarec.checkpoints.resume.safe_load import load_pickled
from tests.resume.runs import quiet_trainer, stopped
from tests.resume.training import state_of

_CHANGES: dict[str, Any] = {"num_samples": 24, "max_steps": 8, "save_steps": 100, "logging_steps": 1, "noisy": False}
_FILE = "stateful.pt"
_STATE = "parameters that are trained"


class MovesAll(ResumableTrainer):
    """The optimizer holds the adapter and the norms, open or not."""

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        if self.optimizer is None:
            model: Any = self.model
            moved = [value for name, value in model.named_parameters() if "lora_" in name or "norm" in name]
            self.optimizer = torch.optim.AdamW(moved, lr=self.args.learning_rate)
        return self.optimizer


class Sets(TrainerCallback):
    """Sets the flag of some parameters once, after a step."""

    def __init__(self, step: int, part: str, *, is_open: bool) -> None:
        self._step, self._part, self._is_open = step, part, is_open

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self._step:
            for name, value in model.named_parameters():
                if self._part in name:
                    value.requires_grad_(self._is_open)


def _trainer(folder: Path, part: str, *, is_open: bool) -> Any:
    trainer = quiet_trainer(folder, cls=MovesAll, **_CHANGES)
    trainer.add_callback(Sets(2, part, is_open=is_open))
    return trainer


@pytest.mark.parametrize(("part", "is_open"), [("norm", True), ("lora_A", False)], ids=["opened", "frozen"])
@pytest.mark.parametrize("step", [2, 4])
def test_resumed_is_uninterrupted(part: str, is_open: bool, step: int, tmp_path: Path) -> None:
    whole = _trainer(tmp_path / "whole", part, is_open=is_open)
    whole.train()
    stopped(_trainer(tmp_path / "run", part, is_open=is_open), step)
    resumed = _trainer(tmp_path / "run", part, is_open=is_open)
    resumed.train("latest")
    assert state_of(tmp_path / "run/checkpoint-8") == state_of(tmp_path / "whole/checkpoint-8")
    assert _flags(resumed) == _flags(whole)


def test_the_same_object_resumes(tmp_path: Path) -> None:
    whole = _trainer(tmp_path / "whole", "lora_A", is_open=False)
    whole.train()
    trainer = _trainer(tmp_path / "run", "lora_A", is_open=False)
    stopped(trainer, 4)
    trainer.callback_handler.callbacks.pop()
    trainer.train("latest")
    assert state_of(tmp_path / "run/checkpoint-8") == state_of(tmp_path / "whole/checkpoint-8")


def test_only_changes_are_saved(tmp_path: Path) -> None:
    stopped(_trainer(tmp_path, "lora_A", is_open=False), 3)
    saved = load_pickled(tmp_path / "checkpoint-3" / _FILE)
    assert saved.keys() == {_STATE}
    assert saved[_STATE].keys() == {"frozen"}
    assert all("lora_A" in name for name in saved[_STATE]["frozen"])


def test_no_change_makes_no_file(tmp_path: Path) -> None:
    stopped(_trainer(tmp_path, "lora_A", is_open=True), 3)
    assert not (tmp_path / "checkpoint-3" / _FILE).exists()


def _flags(trainer: Any) -> dict[str, bool]:
    return {name: value.requires_grad for name, value in trainer.model.named_parameters()}
