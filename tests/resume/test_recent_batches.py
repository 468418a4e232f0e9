"""Data with a state that nobody sees, and that counts now and then: drawn again, a micro-batch is another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

from llamarec.checkpoints import ResumableTrainer
from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.trainer.samples.recent_batches import digest_of
from llamarec.errors import CheckpointError, ConfigError
from tests.resume.runs import QUIET, quiet_trainer, stopped
from tests.resume.training import make_args, make_model, state_of
from tests.resume.worker_data import VOCABULARY, Seen, Words


class _Counting(Dataset[dict[str, torch.Tensor]]):
    """Some of its samples hold how often it was read; the first and the last do not."""

    def __init__(self, counted: range) -> None:
        self.words, self.counted, self.reads = Words(24, noisy=False), counted, 0

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.reads += 1
        sample = self.words[index]
        if index in self.counted:
            sample["input_ids"][0] = self.reads % VOCABULARY
        return sample


def _trainer(folder: Path, counted: range, config: CheckpointConfig | None = None, **changes: Any) -> Any:
    trainer = quiet_trainer(
        folder, config, noisy=False, max_steps=6, save_steps=2, train_sampling_strategy="sequential", **changes
    )
    trainer.train_dataset = _Counting(counted)
    return trainer


def test_a_state_that_shows_in_the_first_save_is_refused_there(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, range(4, 20))
    with pytest.raises(ConfigError, match="micro-batch of samples 7 to 8 of epoch 1 is another one when it is drawn"):
        trainer.train()
    assert trainer.state.global_step == 2


def test_a_state_that_shows_later_is_said_and_its_resume_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(_trainer(tmp_path, range(12, 16)), 4)
    assert "WARNING: the micro-batch of samples 15 to 16 of epoch 1" in capsys.readouterr().err

    resumed = _trainer(tmp_path, range(12, 16))
    with pytest.raises(CheckpointError, match="is not the one that was trained on before the checkpoint") as refusal:
        resumed.train("latest")
    assert resumed.state.global_step == 4
    assert "--allow_changed data" in str(refusal.value)

    _trainer(tmp_path, range(12, 16), CheckpointConfig(allow_changed="data")).train("latest")


def test_another_collator_is_refused_on_resume(tmp_path: Path) -> None:
    stopped(_trainer(tmp_path, range(0)), 3)
    trainer = _trainer(tmp_path, range(0))
    collate = trainer.data_collator
    trainer.data_collator = lambda samples: {**collate(samples), "attention_mask": torch.ones(len(samples), 8)}
    with pytest.raises(CheckpointError, match="--allow_changed data"):
        trainer.train("latest")


class _Curriculum(Dataset[dict[str, torch.Tensor]]):
    """Its samples go by an attribute that a callback moves at each step."""

    def __init__(self) -> None:
        self.words, self.level = Words(24, noisy=False), 0

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = self.words[index]
        sample["input_ids"][: self.level] = 1
        return sample

    def set_epoch(self, epoch: int) -> None:
        """See there."""
        self.level = min(epoch, 5)

    def state_dict(self) -> dict[str, Any]:
        """See there."""
        return {"level": self.level}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See there."""
        self.level = state["level"]


class _Moves(TrainerCallback):
    """Tells the data which step it is."""

    def __init__(self, dataset: _Curriculum) -> None:
        self._dataset = dataset

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See there."""
        self._dataset.set_epoch(state.global_step)


def _moved(folder: Path, **changes: Any) -> Any:
    dataset, settings = _Curriculum(), {**QUIET, "max_steps": 6, "save_steps": 2, **changes}
    passed: dict[str, Any] = {"stateful": {"data": dataset}} if settings.pop("passed", True) else {}
    trainer = ResumableTrainer(
        model=make_model(dropout=0.0),
        args=make_args(folder, **settings),
        train_dataset=dataset,
        data_collator=Seen(),
        **passed,
    )
    trainer.add_callback(_Moves(dataset))
    return trainer


@pytest.mark.parametrize("event", ["on_step_end", "on_substep_end"])
def test_data_that_a_callback_moves_on_are_restored(event: str, tmp_path: Path) -> None:
    _moved(tmp_path / "whole").train()
    stopped(_moved(tmp_path / "run"), 3, event=event)
    _moved(tmp_path / "run").train("latest")
    assert state_of(tmp_path / "run/checkpoint-6") == state_of(tmp_path / "whole/checkpoint-6")


def test_data_that_a_callback_moves_on_are_to_be_passed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'stateful=\{"data": dataset\}'):
        _moved(tmp_path / "saved", passed=False).train()

    stopped(_moved(tmp_path / "resumed", passed=False, save_steps=100), 3)
    with pytest.raises(CheckpointError, match=r'stateful=\{"data": dataset\}'):
        _moved(tmp_path / "resumed", passed=False, save_steps=100).train("latest")


def test_another_batch_size_is_not_another_micro_batch(tmp_path: Path) -> None:
    stopped(_trainer(tmp_path, range(0)), 3)
    _trainer(tmp_path, range(0), per_device_train_batch_size=4, dataloader_num_workers=2).train("latest")


def test_digests_are_of_values() -> None:
    batch = {"a": torch.arange(6).reshape(2, 3), "b": ["text", None, 1.5, np.float32(2)], "c": np.arange(3)}
    same = {"c": np.arange(3), "b": ["text", None, 1.5, np.float32(2)], "a": torch.arange(6).reshape(2, 3)}

    assert digest_of(batch) == digest_of(same)
    assert digest_of(batch) != digest_of({**same, "a": torch.arange(6).reshape(3, 2)})
    assert digest_of(batch) != digest_of({**same, "a": torch.arange(6).reshape(2, 3).float()})
    assert digest_of(batch) != digest_of({**same, "b": ["text", None, 1.5, np.float32(3)]})
    assert digest_of(torch.zeros(2**20)) != digest_of(torch.ones(2**20))
    assert digest_of(torch.ones(3, dtype=torch.bfloat16)) == digest_of(torch.ones(3, dtype=torch.bfloat16))
