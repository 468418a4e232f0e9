"""Scores of letters equal the plain model's, whatever the padding, and train only the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from llamarec.data.prepared import PreparedData
from llamarec.errors import ModelError
from llamarec.ranker.model.base_models import load_letter_model
from llamarec.ranker.model.last_layer import read_answers_only
from llamarec.ranker.model.letter_model import collate
from llamarec.ranker.options.config import LINEAR_LAYERS, RankerConfig
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.training_samples import TrainingSamples


@pytest.fixture
def model(tiny_folder: Path, encoder: PromptEncoder) -> Any:
    torch.manual_seed(0)
    config = RankerConfig(llm_base_model="tiny", lora_dropout=0.0)
    return load_letter_model("tiny", str(tiny_folder), config, encoder.letter_ids, bf16=False)


@pytest.fixture
def batch(data: PreparedData, encoder: PromptEncoder) -> dict[str, torch.Tensor]:
    samples = TrainingSamples(data, encoder, seed=0)
    return collate([samples[0, i] for i in (3, 40, 77)], pad_token_id=1)


def _randomise_adapter(model: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1


def test_letter_logits_are_the_plain_models_at_the_answer(
    model: Any, batch: dict[str, torch.Tensor], tiny_folder: Path, encoder: PromptEncoder, tmp_path: Path
) -> None:
    _randomise_adapter(model)
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), tmp_path).eval()
    with torch.no_grad():
        ours = model.eval()(**batch)["logits"]
        for row, end in enumerate(batch["answer_positions"].tolist()):
            # One prompt at a time, unpadded, the whole vocabulary: the definition.
            logits = plain(input_ids=batch["input_ids"][row : row + 1, : end + 1]).logits[0, -1, encoder.letter_ids]
            torch.testing.assert_close(ours[row], logits)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_plain_model_one_prompt_at_a_time(
    checkpointing: bool, model: Any, batch: dict[str, torch.Tensor], tiny_folder: Path, encoder: PromptEncoder
) -> None:
    _randomise_adapter(model)
    plain = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_folder), model.peft_config["default"])
    plain.load_state_dict(model.state_dict(), strict=False)
    if checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable()
    assert model.base_model.model.reads_answers_only
    model.train()(**batch)["loss"].backward()
    for row, end in enumerate(batch["answer_positions"].tolist()):
        logits = plain(input_ids=batch["input_ids"][row : row + 1, : end + 1]).logits[:, -1, encoder.letter_ids]
        (torch.nn.functional.cross_entropy(logits, batch["labels"][row : row + 1]) / 3).backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_layer_of_another_form_stays_as_it_is(tiny_folder: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder)
    last = plain.get_decoder().layers[-1]
    last.__class__ = type("OtherLayer", (type(last),), {})
    assert not read_answers_only(plain)
    assert type(last).__name__ == "OtherLayer"


def test_the_loss_is_cross_entropy_over_the_letters(model: Any, batch: dict[str, torch.Tensor]) -> None:
    out = model.eval()(**batch)
    expected = -torch.log_softmax(out["logits"], dim=-1)[torch.arange(3), batch["labels"]].mean()
    torch.testing.assert_close(out["loss"], expected)


def test_micro_batches_sum_to_the_mean_over_the_step(model: Any, batch: dict[str, torch.Tensor]) -> None:
    model.eval()
    whole = model(**batch)["loss"]
    count = torch.tensor(3)
    parts = [
        model(**{name: tensor[rows] for name, tensor in batch.items()}, num_items_in_batch=count)["loss"]
        for rows in (slice(0, 2), slice(2, 3))
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_only_the_adapter_learns(model: Any, batch: dict[str, torch.Tensor]) -> None:
    _randomise_adapter(model)
    model.train()(**batch)["loss"].backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert with_gradient
    assert all("lora_" in name for name in with_gradient)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == with_gradient


def test_all_linear_is_every_layer_of_the_decoder(tiny_folder: Path, encoder: PromptEncoder) -> None:
    config = RankerConfig(llm_base_model="tiny", lora_target_modules="all-linear")
    model = load_letter_model("tiny", str(tiny_folder), config, encoder.letter_ids, bf16=False)
    assert set(model.peft_config["default"].target_modules) == set(LINEAR_LAYERS)


@pytest.mark.parametrize("given", ["query", "q_proj,v_porj", "q_proj,lm_head"])
def test_wrong_layer_names_are_answered_with_the_right_ones(
    given: str, tiny_folder: Path, encoder: PromptEncoder
) -> None:
    config = RankerConfig(llm_base_model="tiny", lora_target_modules=given)
    with pytest.raises(ModelError, match=rf"(?s){given}.*q_proj.*all-linear.*found: +{given.split(',')[-1]}"):
        load_letter_model("tiny", str(tiny_folder), config, encoder.letter_ids, bf16=False)


def test_nf4_runs_on_a_cpu(tiny_folder: Path, encoder: PromptEncoder, batch: dict[str, torch.Tensor]) -> None:
    config = RankerConfig(llm_base_model="tiny", quantization="nf4", lora_dropout=0.0)
    model = load_letter_model("tiny", str(tiny_folder), config, encoder.letter_ids, bf16=False)
    quantised = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
    assert quantised
    out = model.train()(**batch)
    out["loss"].backward()
    assert torch.isfinite(out["loss"])
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_nf4_on_a_cpu_learns_after_a_validation_as_before(
    tiny_folder: Path, encoder: PromptEncoder, batch: dict[str, torch.Tensor]
) -> None:
    config = RankerConfig(llm_base_model="tiny", quantization="nf4", lora_dropout=0.0)
    model = load_letter_model("tiny", str(tiny_folder), config, encoder.letter_ids, bf16=False)
    _randomise_adapter(model)
    before = _gradients(model, batch)
    with torch.no_grad():
        model.eval()(**batch)
    after = _gradients(model, batch)
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        assert torch.equal(gradient, after[name]), name


def _gradients(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.train()(**batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
