"""What the optimizer moves beside the weights files, and buffers that training changes, are saved and put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import set_seed

from llamarec.checkpoints import ResumableTrainer
from llamarec.checkpoints.storage.layout import EXTRA_STATE
from llamarec.errors import CheckpointError
from tests.resume.training import make_args, make_model
from tests.resume.worker_data import Seen, Words


class Normed(nn.Module):
    """A batch norm whose running means training moves, and a buffer that no state holds."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean square of the normed output."""
        if self.training:
            self.seen += len(input_ids)
        return {"loss": self.norm(self.body(input_ids.float())).sub(labels.float()).square().mean()}


class Scaled(ResumableTrainer):
    """Divides its loss by a temperature that it learns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.temperature = nn.Parameter(torch.tensor([1.0, 2.0]))
        super().__init__(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """With the temperature."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        optimizer.add_param_group({"params": [self.temperature], "weight_decay": 0.0})
        return optimizer

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """See there."""
        loss: Any = super().compute_loss(*args, **kwargs)
        scaled: torch.Tensor = (loss / self.temperature).sum()
        return scaled


def _opened() -> Any:
    model = make_model(dropout=0.0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or "norm" in name or "embed" in name)
    return model


def _normed_with_lora() -> Any:
    set_seed(1)
    return get_peft_model(Normed(), LoraConfig(r=2, target_modules=["body"]))


def _train(folder: Path, model: Any, resume: Any = None, cls: type[ResumableTrainer] = ResumableTrainer) -> Any:
    set_seed(2)
    args = make_args(folder, max_steps=4, save_steps=2, eval_strategy="no", load_best_model_at_end=False)
    trainer = cls(model=model, args=args, train_dataset=Words(noisy=False), data_collator=Seen(noisy=False))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def _state(trainer: Any) -> dict[str, torch.Tensor]:
    model = trainer.model
    named = [*model.named_parameters(), *model.named_buffers(), ("temperature", getattr(trainer, "temperature", None))]
    return {name: value.detach().clone() for name, value in named if value is not None}


def _check(folder: Path, make: Any, held: set[str], cls: type[ResumableTrainer] = ResumableTrainer) -> None:
    whole = _state(_train(folder, make(), cls=cls))
    checkpoint = folder / "checkpoint-2"
    assert held <= load_file(checkpoint / EXTRA_STATE).keys()

    resumed = _state(_train(folder, make(), str(checkpoint), cls=cls))
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []


def test_layers_opened_by_hand(tmp_path: Path) -> None:
    _check(tmp_path, _opened, {"base_model.model.model.norm.weight", "base_model.model.model.embed_tokens.weight"})


def test_weights_beside_the_model(tmp_path: Path) -> None:
    _check(tmp_path, lambda: make_model(dropout=0.0), {"optimizer.2.0"}, Scaled)


def test_buffers_under_an_adapter(tmp_path: Path) -> None:
    prefix = "base_model.model"
    _check(tmp_path, _normed_with_lora, {f"{prefix}.norm.running_mean", f"{prefix}.seen"})


def test_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    trainer = _train(tmp_path, _opened())
    save_file({"base_model.model.model.norm.weight": torch.zeros(3), "gone": torch.zeros(1)}, tmp_path / EXTRA_STATE)
    extra = load_file(tmp_path / EXTRA_STATE)

    with pytest.raises(CheckpointError, match=r"norm\.weight: float32 \[3\] saved(.|\n)*gone: the model has none"):
        trainer._resumable.extra.put_into_model(extra, tmp_path)
