"""A thread that writes a checkpoint and a training that goes on: neither sees what the other sets meanwhile."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from transformers import LlamaConfig, TrainerCallback

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.storage.layout import STATEFUL
from tests.resume.runs import quiet_trainer
from tests.resume.training import make_model
from tests.resume.worker_data import VOCABULARY
from tests.tiny_llama import tiny_llama

LATE = 5
"""The step in which the checkpoint of step 4 is still being written."""


@pytest.fixture
def slow_writes(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Configurations are written once this is set; but not those of the first save, which training waits for."""
    is_late, num_writes = threading.Event(), 0
    for cls in (LoraConfig, LlamaConfig):
        whole = cls.save_pretrained

        def slow(self: Any, *args: Any, _whole: Any = whole, **kwargs: Any) -> Any:
            nonlocal num_writes
            num_writes += 1
            if num_writes == 2:
                assert threading.current_thread() is not threading.main_thread()
                assert is_late.wait(30)
            return _whole(self, *args, **kwargs)

        monkeypatch.setattr(cls, "save_pretrained", slow)
    return is_late


class Seen(TrainerCallback):
    """Marks the model's configuration in each step, and keeps what PEFT says that its adapter is for."""

    def __init__(self, is_late: threading.Event) -> None:
        self.inference_modes: list[bool] = []
        self._is_late = is_late

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["model"].config.last_step = state.global_step + 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if peft_config := getattr(kwargs["model"], "peft_config", None):
            self.inference_modes.append(peft_config["default"].inference_mode)
        if state.global_step == LATE:
            self._is_late.set()


@pytest.mark.parametrize("adapter_format", ["safetensors", "bin"])
def test_an_adapter_that_is_written_is_none_for_inference(
    tmp_path: Path, slow_writes: threading.Event, adapter_format: Any
) -> None:
    seen = Seen(slow_writes)
    config = CheckpointConfig(adapter_format=adapter_format)
    quiet_trainer(tmp_path, config, model=make_model(), max_steps=6, save_steps=2, callbacks=[seen]).train()

    assert not any(seen.inference_modes)
    for step in (2, 4, 6):
        described = json.loads((tmp_path / f"checkpoint-{step}" / "adapter_config.json").read_text("utf-8"))
        assert described["inference_mode"] is True
    held = tmp_path / "checkpoint-6" / STATEFUL
    assert not held.is_file() or "peft_config" not in str(load_pickled(held))


def test_a_configuration_is_that_of_its_checkpoint(tmp_path: Path, slow_writes: threading.Event) -> None:
    model = tiny_llama(vocab_size=VOCABULARY)
    quiet_trainer(tmp_path, model=model, max_steps=6, save_steps=2, callbacks=[Seen(slow_writes)]).train()

    for step in (2, 4, 6):
        described = json.loads((tmp_path / f"checkpoint-{step}" / "config.json").read_text("utf-8"))
        assert described["last_step"] == step
        assert described["architectures"] == ["LlamaForCausalLM"]


def test_a_configuration_that_cannot_be_copied_is_written_all_the_same(tmp_path: Path) -> None:
    model = make_model()
    model.peft_config["default"].runtime_config.lock = threading.Lock()
    quiet_trainer(tmp_path, model=model, max_steps=2, save_steps=2).train()
    assert (tmp_path / "checkpoint-2" / "adapter_config.json").is_file()
