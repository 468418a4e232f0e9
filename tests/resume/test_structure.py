"""What a callback adds to the model, removes or resizes in mid-training stops it at the next save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from llamarec.errors import ConfigError
from tests.resume.runs import At, quiet_trainer


def _add_group(trainer: Any) -> None:
    trainer.optimizer.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    trainer.lr_scheduler.base_lrs.append(0.1)
    trainer.lr_scheduler.lr_lambdas.append(lambda _: 1.0)


def _resize(trainer: Any) -> None:
    trainer.model.base_model.model.resize_token_embeddings(40)


def _add_buffer(trainer: Any) -> None:
    trainer.model.register_buffer("noted", torch.zeros(2))


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "group": (_add_group, "optimizer group 2 is new|optimizer group 1 is new"),
    "embeddings": (_resize, r"embed_tokens.*: \[32, 16\] -> \[40, 16\]"),
    "buffer": (_add_buffer, "noted is new"),
}


def _changed(folder: Path, step: int, change: Callable[[Any], None], **options: Any) -> Any:
    trainers: list[Any] = []
    callback: TrainerCallback = At(step, action=lambda: change(trainers[0]))
    trainers.append(quiet_trainer(folder, callbacks=(callback,), max_steps=6, save_steps=2, **options))
    return trainers[0]


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_it_is_named_at_the_next_save(name: str, step: int, tmp_path: Path) -> None:
    change, said = CHANGES[name]
    with pytest.raises(ConfigError, match="training has changed what the model is made of") as refusal:
        _changed(tmp_path, step, change).train()

    refusal.match(said)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == (["checkpoint-2"] if step == 3 else [])


def test_what_was_saved_before_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        _changed(tmp_path, 3, _add_buffer).train()
    assert quiet_trainer(tmp_path, max_steps=6).train("latest").global_step == 6


def test_a_hook_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(trainer: Any) -> None:
        trainer.model.register_forward_hook(lambda *_: None)

    _changed(tmp_path, 1, change).train()
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("added or removed a hook of the model") == 1


def test_what_happens_at_the_start_is_the_programs_own_affair(tmp_path: Path) -> None:
    class AtStart(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            objects["model"].register_buffer("noted", torch.zeros(2))

    quiet_trainer(tmp_path, callbacks=(AtStart(),), max_steps=2).train()
