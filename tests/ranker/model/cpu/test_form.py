"""What is not of the form is left to the modules."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from llamarec.ranker.model.cpu.form import form_of
from tests.ranker.model.cpu.models import by_modules, prompts, small_model


def _form(model: Any) -> Any:
    return form_of(model.get_base_model())


def test_gradients_are_in_the_order_of_the_weights() -> None:
    form = _form(small_model())
    assert form is not None
    assert form.num_trained == sum(parameter.numel() for parameter in form.trained)
    offsets = [place for layer in form.layers for p in (layer.q, layer.v) for place in p.adapter.grads]
    sizes = [parameter.numel() for parameter in form.trained]
    assert offsets == [sum(sizes[:index]) for index in range(len(sizes))]


def test_precision_hooks_checkpointing_and_autocast_are_the_modules_business() -> None:
    assert _form(small_model().to(torch.bfloat16)) is None
    hooked = small_model()
    hooked.get_base_model().model.layers[1].mlp.down_proj.register_forward_hook(lambda *_: None)
    assert _form(hooked) is None
    checkpointing = small_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        checkpointing.enable_input_require_grads()
        checkpointing.gradient_checkpointing_enable()
    assert _form(checkpointing) is None
    assert _form(checkpointing.eval()) is not None, "nothing is kept in an evaluation"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _form(small_model()) is None


def test_other_trained_weights_and_other_adapters_are_the_modules_business() -> None:
    trained = small_model()
    trained.get_base_model().model.norm.weight.requires_grad_()
    assert _form(trained) is None
    embedding = small_model()
    embedding.get_base_model().get_input_embeddings().weight.requires_grad_()
    assert _form(embedding) is None
    frozen = small_model()
    next(p for name, p in frozen.named_parameters() if "lora_A" in name).requires_grad_(False)
    assert _form(frozen) is not None


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("mistral", {"sliding_window": 16}), ("llama", {"hidden_act": "gelu"}), ("llama", {"attention_dropout": 0.1})],
)
def test_other_attention_and_activation(kind: str, sizes: dict[str, Any]) -> None:
    assert _form(small_model(kind, **sizes)) is None


def test_an_adapter_switched_off_or_merged() -> None:
    model, batch = small_model(targets=("q_proj", "down_proj")).eval(), prompts()
    with torch.no_grad():
        with model.disable_adapter(), by_modules():
            expected = model(**batch)["logits"]
        with model.disable_adapter():
            assert _form(model) is not None
            torch.testing.assert_close(model(**batch)["logits"], expected, rtol=1e-4, atol=1e-5)
        together = model(**batch)["logits"]
        model.merge_adapter()
        torch.testing.assert_close(model(**batch)["logits"], together, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(together, expected, atol=1e-3)


def test_a_frozen_part_of_the_adapter_gets_no_gradient() -> None:
    model, batch = small_model(), prompts()
    name, parameter = next((n, p) for n, p in model.named_parameters() if "lora_A" in n)
    parameter.requires_grad_(False)
    model(**batch)["loss"].backward()
    assert parameter.grad is None, name
    assert any(p.grad is not None for p in model.parameters())
