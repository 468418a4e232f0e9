"""Layers of another form than the known ones are computed by their own modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, MistralConfig, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm

from llamarec.ranker.model.cpu.form import form_of
from llamarec.ranker.model.known_layers import config_difference, decoder_difference
from llamarec.ranker.model.last_layer import read_answers_only
from tests.ranker.model.cpu.models import KINDS, by_modules, loss_and_gradients, prompts, small_model
from tests.tiny_llama import tiny_llama


def _decoder(model: Any) -> Any:
    return model.get_base_model().get_decoder()


def _difference(change: Callable[[Any], None]) -> str | None:
    """What is said of a small Llama with LoRA after a change; its own modules must then compute it."""
    model = small_model()
    change(_decoder(model))
    assert form_of(model.get_base_model()) is None
    return decoder_difference(_decoder(model))


@pytest.mark.parametrize("kind", KINDS)
def test_the_installed_models_are_known(kind: str) -> None:
    model = small_model(kind, targets=("q_proj", "down_proj"))
    assert decoder_difference(_decoder(model)) is None
    assert form_of(model.get_base_model()) is not None
    assert model.get_base_model().reads_answers_only


@pytest.mark.parametrize(
    ("config", "content"),
    [
        (LlamaConfig, {}),
        # SmolLM2, models of Unsloth, and long contexts.
        (LlamaConfig, {"is_llama_config": True, "rope_interleaved": True, "transformers.js_config": {"dtype": "q4"}}),
        (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0}}),
        (LlamaConfig, {"unsloth_fixed": True, "pretraining_tp": 2}),
        (MistralConfig, {"sliding_window": None}),
        (Qwen2Config, {}),
    ],
)
def test_options_that_no_code_reads_do_not_matter(config: Any, content: dict[str, Any]) -> None:
    assert config_difference(config(**content).to_dict()) is None


def test_an_additional_norm() -> None:
    def change(decoder: Any) -> None:
        decoder.layers[1].self_attn.q_norm = LlamaRMSNorm(8)

    assert _difference(change) == "LlamaAttention also has q_norm"


def test_another_activation() -> None:
    def change(decoder: Any) -> None:
        decoder.layers[0].mlp.act_fn = nn.GELU()

    assert _difference(change) == "the activation is GELU"


def test_another_scale() -> None:
    class Scaled(LlamaDecoderLayer):
        def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return hidden_states + 0.5 * (super().forward(hidden_states, *args, **kwargs) - hidden_states)

    def by_subclass(decoder: Any) -> None:
        decoder.layers[1].__class__ = Scaled

    def by_setting(decoder: Any) -> None:
        decoder.layers[1].residual_multiplier = 0.5

    def by_weight(decoder: Any) -> None:
        decoder.layers[1].mlp.gain = nn.Parameter(torch.ones(1), requires_grad=False)

    assert _difference(by_subclass) == f"Scaled is defined in {__name__}"
    assert _difference(by_setting) == "LlamaDecoderLayer has an unknown setting residual_multiplier"
    assert _difference(by_weight) == "LlamaMLP has weights of its own: gain"


def test_the_scale_of_the_scores_is_the_layers_own() -> None:
    model, batch = small_model(), prompts()
    for layer in _decoder(model).layers:
        layer.self_attn.scaling *= 0.7

    loss, logits, gradients = loss_and_gradients(model, batch)
    with by_modules():
        expected = loss_and_gradients(model, batch)
    torch.testing.assert_close((loss, logits), expected[:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients, expected[2], rtol=1e-3, atol=1e-5)


def test_a_replaced_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(self: Any, x: Tensor) -> Tensor:
        return 2 * self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]

    def of_one(decoder: Any) -> None:
        decoder.layers[1].mlp.forward = doubled.__get__(decoder.layers[1].mlp)

    assert _difference(of_one) == "the forward pass of LlamaMLP is replaced"
    monkeypatch.setattr(LlamaMLP, "forward", doubled)
    assert _difference(lambda _: None) == "the forward pass of LlamaMLP is replaced"


def test_fewer_layers_than_there_are() -> None:
    def change(decoder: Any) -> None:
        decoder.config.num_hidden_layers = 2

    assert _difference(change) == "3 layers, but num_hidden_layers is 2"


def test_other_widths() -> None:
    def change(decoder: Any) -> None:
        decoder.layers[2].self_attn.v_proj = nn.Linear(32, 24)

    assert _difference(change) == "the linear layers of LlamaDecoderLayer have unknown widths"


def test_an_option_that_the_models_code_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(self: LlamaModel, input_ids: Tensor, **_: Any) -> Any:
        return self.embed_tokens(input_ids) * self.config.embedding_multiplier

    scaled.__module__ = LlamaModel.__module__
    monkeypatch.setattr(LlamaModel, "forward", scaled)
    config_difference.__globals__["_names_in_code_of"].cache_clear()
    try:
        config = LlamaConfig().to_dict()
        assert config_difference({**config, "embedding_multiplier": 12.0}) == "embedding_multiplier is 12.0"
        assert config_difference({**config, "embedding_multiplier": 1.0}) is None
        assert config_difference({**config, "never_read": 12.0}) is None
    finally:
        config_difference.__globals__["_names_in_code_of"].cache_clear()


def test_the_last_layer_of_another_form_is_not_cut_short() -> None:
    plain = tiny_llama()
    changed = copy.deepcopy(plain)
    changed.model.layers[-1].post_feedforward_layernorm = LlamaRMSNorm(16)
    assert read_answers_only(plain)
    assert not read_answers_only(changed)
