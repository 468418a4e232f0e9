"""4-bit weights keep one layout on a CPU, or the model is refused."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from torch import nn

from llamarec.errors import ModelError
from llamarec.ranker.model.base_models import load_letter_model
from llamarec.ranker.model.quantization import keep_one_layout
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.encoding import PromptEncoder

SWITCH = "support_avx512bf16_for_cpu"


def test_the_installed_bitsandbytes_has_the_switch() -> None:
    model = nn.Sequential(Linear4bit(8, 8), nn.Linear(8, 8))
    setattr(model[0], SWITCH, True)
    keep_one_layout(model)
    assert getattr(model[0], SWITCH) is False
    assert not hasattr(model[1], SWITCH)


def test_a_bitsandbytes_without_the_switch_is_refused(
    tiny_folder: Path, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Linear4bit.__init__

    def renamed(self: Linear4bit, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)
        self.supports_packing = self.__dict__.pop(SWITCH)

    monkeypatch.setattr(Linear4bit, "__init__", renamed)
    config = RankerConfig(llm_base_model="tiny", quantization="nf4")
    with pytest.raises(ModelError) as caught:
        load_letter_model("tiny", str(tiny_folder), config, encoder.letter_ids, bf16=False, device=torch.device("cpu"))

    error = caught.value
    assert error.problem == (
        f"bitsandbytes {version('bitsandbytes')} cannot train a 4-bit model on a CPU: its gradients may be wrong"
    )
    assert error.expected is not None
    assert error.expected.startswith("bitsandbytes>=0.49")
    assert SWITCH in error.expected
    assert error.found is not None
    assert error.found.startswith("model.layers.0.")
    assert error.hint is not None
    assert error.hint.startswith('pip install "bitsandbytes')
    assert error.hint.endswith("--quantization none")
