"""A training whose data hold generators of their own: interrupted and resumed, it is the uninterrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import GradientState
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback

from llamarec.checkpoints import CheckpointConfig
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.errors import ConfigError
from tests.resume.runs import quiet_trainer, stopped
from tests.resume.training import make_trainer, outcome, state_of
from tests.resume.worker_data import LENGTH, VOCABULARY, Words


class _Augmented(Dataset[dict[str, torch.Tensor]]):
    """Of which each reading replaces a token, drawn from a generator that is made when it is first needed."""

    def __init__(self) -> None:
        self._words = Words(22, noisy=False)
        self._rng: np.random.Generator | None = None

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self._rng is None:
            self._rng = np.random.default_rng(7)
        sample = self._words[index]
        sample["input_ids"][int(self._rng.integers(LENGTH))] = int(self._rng.integers(VOCABULARY))
        return sample


class _Masking:
    """Collates, and replaces tokens as `DataCollatorForLanguageModeling(seed=...)` does."""

    def __init__(self) -> None:
        self.generator: torch.Generator | None = None

    def __call__(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        if self.generator is None:
            self.generator = torch.Generator().manual_seed(7)
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        batch.pop("index")
        masked = torch.rand(batch["input_ids"].shape, generator=self.generator) < 0.3
        batch["input_ids"][masked] = 0
        return batch


def _trainer(folder: Path, config: CheckpointConfig | None = None, dataset: Any = None, **changes: Any) -> Any:
    trainer = make_trainer(folder, config, max_steps=8, **changes)
    trainer.train_dataset = dataset or _Augmented()
    # The validation's too.
    trainer.data_collator = _Masking()
    return trainer


def test_resumed_is_uninterrupted(tmp_path: Path) -> None:
    _trainer(tmp_path / "whole").train()
    stopped(_trainer(tmp_path / "run"), 4)
    _trainer(tmp_path / "run").train("latest")
    assert outcome(tmp_path / "run") | {"checkpoints": 0} == outcome(tmp_path / "whole") | {"checkpoints": 0}


@pytest.mark.slow
def test_workers_do_not_matter(tmp_path: Path) -> None:
    _trainer(tmp_path / "whole").train()
    stopped(_trainer(tmp_path / "run", dataloader_num_workers=2), 4)
    _trainer(tmp_path / "run", dataloader_num_workers=2).train("latest")
    whole, run = (
        torch.load(tmp_path / name / "checkpoint-8/optimizer.pt", weights_only=True)["state"]
        for name in ("whole", "run")
    )
    assert all(torch.equal(whole[i]["exp_avg"], run[i]["exp_avg"]) for i in whole)


class _Unrepeatable(_Augmented):
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self[0] if index < 0 else {**super().__getitem__(index), "labels": _from_the_system()}


def _from_the_system() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng().integers(VOCABULARY, size=LENGTH))


def test_what_no_resume_repeats_is_refused_before_the_first_step(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, dataset=_Unrepeatable())
    with pytest.raises(ConfigError, match=r"sample 0 of train_dataset \(_Unrepeatable\) is another at each reading"):
        trainer.train()
    assert trainer.state.global_step == 0
    _trainer(tmp_path, CheckpointConfig(check_data=False, allow_changed="data"), dataset=_Unrepeatable()).train()


def test_generators_of_other_trainings_of_the_process_are_not_this_ones(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_steps=2)
    # Where accelerate notes every data loader of the process.
    shared: Any = GradientState()
    other = DataLoader(Words(), generator=torch.Generator())
    shared._add_dataloader(other)
    try:
        trainer.train()
    finally:
        shared._remove_dataloader(other)

    states = load_pickled(tmp_path / "checkpoint-2/rng_state.pth")
    assert [path for path in states["held"] if "gradient_state" in path or "dataloader" in path] == []


class _Spawns(TrainerCallback):
    """Has a generator make another at each step, and draws from that."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """See there."""
        (child,) = self.rng.spawn(1)
        for parameter in objects["model"].parameters():
            if parameter.grad is not None:
                parameter.grad *= child.random()


@pytest.mark.parametrize("event", ["on_step_end", "on_substep_end"])
def test_generators_that_one_makes_go_on_where_they_were(event: str, tmp_path: Path) -> None:
    def make(folder: Path) -> Any:
        return quiet_trainer(folder, noisy=False, num_samples=24, max_steps=6, save_steps=100, callbacks=(_Spawns(),))

    make(tmp_path / "whole").train()
    stopped(make(tmp_path / "run"), 3, event=event)
    make(tmp_path / "run").train("latest")
    assert state_of(tmp_path / "run/checkpoint-6") == state_of(tmp_path / "whole/checkpoint-6")


class _Crowded(_Augmented):
    """Holds more objects than a search enters."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [[object() for _ in range(200)] for _ in range(40)]


def test_the_end_of_the_search_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _trainer(tmp_path / "a").train()
    assert "are not looked for" not in capsys.readouterr().err

    _trainer(tmp_path / "b", dataset=_Crowded()).train()
    assert capsys.readouterr().err.count("and beyond are not looked for: too many objects") == 1
