"""LoRA's dropout drops the wanted share, scales the rest, and follows torch's generator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llamarec.ranker.model.base_models import load_letter_model
from llamarec.ranker.model.dropout import BitDropout
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.encoding import PromptEncoder


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_share_and_scale(share: float) -> None:
    torch.manual_seed(0)
    out = BitDropout(share)(torch.ones(3, 100_001))
    dropped = (out == 0).float().mean().item()
    assert dropped == pytest.approx(share, abs=4 * (share * (1 - share) / out.numel()) ** 0.5)
    assert out.max().item() == pytest.approx(1 / (1 - share), rel=1e-3)
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)


def test_entries_of_one_word_are_independent() -> None:
    torch.manual_seed(0)
    kept = (BitDropout(0.5)(torch.ones(400_000)) > 0).float().view(-1, 4)
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max().item() < 0.02


def test_the_generator_decides_and_evaluation_does_nothing() -> None:
    x, dropout = torch.randn(7, 13, requires_grad=True), BitDropout(0.3)
    state = torch.get_rng_state()
    first = dropout(x)
    torch.set_rng_state(state)
    second = dropout(x)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    first.sum().backward()
    assert x.grad is not None
    assert ((x.grad == 0) == (first == 0)).all()
    assert dropout.eval()(x) is x or torch.equal(dropout(x), x)
    assert torch.equal(BitDropout(0.0)(x), x)
    assert not BitDropout(1.0)(x).any()


def test_every_lora_layer_has_it(tiny_folder: Path, encoder: PromptEncoder) -> None:
    config = RankerConfig(llm_base_model="tiny", lora_dropout=0.1)
    model = load_letter_model("tiny", str(tiny_folder), config, encoder.letter_ids, bf16=False)
    found = [m for name, m in model.named_modules() if "lora_dropout." in name]
    assert found
    assert {type(m) for m in found} == {BitDropout}
    assert {m.p for m in found} == {0.1}
