"""Prompt by prompt is the same function as the modules' own passes over a padded batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from llamarec.ranker.model.cpu import attention
from llamarec.ranker.model.cpu.form import form_of
from llamarec.ranker.model.cpu.layer import Pass
from tests.ranker.model.cpu.models import ALL, KINDS, by_modules, loss_and_gradients, prompts, small_model


def _assert_same(model: Any, batch: dict[str, Tensor]) -> None:
    assert form_of(model.get_base_model()) is not None, "or it would be the modules' own way"
    loss, logits, gradients = loss_and_gradients(model, batch)
    # In double precision the modules' way is what both mean.
    exact = copy.deepcopy(model).double()
    with by_modules():
        exact_loss, exact_logits, expected = loss_and_gradients(exact, batch)
    torch.testing.assert_close(loss, exact_loss.float())
    torch.testing.assert_close(logits, exact_logits.float(), rtol=1e-4, atol=1e-5)
    assert gradients.keys() == expected.keys()
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    for name, gradient in gradients.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name].float(), rtol=1e-4, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ALL, ("down_proj",), ("k_proj", "gate_proj")], ids="-".join)
def test_loss_logits_and_gradients(kind: str, targets: tuple[str, ...]) -> None:
    _assert_same(small_model(kind, targets=targets), prompts())


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("layers", [1, 2])
def test_heads_that_share_keys_and_few_layers(key_heads: int, layers: int) -> None:
    model = small_model(key_heads=key_heads, num_hidden_layers=layers, targets=("v_proj",))
    _assert_same(model, prompts())


@pytest.mark.parametrize(
    ("lengths", "shared"),
    [
        ((50,), 50),
        ((1, 30), 1),
        ((40, 40, 40), 40),
        ((96, 97, 48, 49), 0),
        ((9, 200), 8),
        ((300, 20), 19),
    ],
    ids=str,
)
def test_lengths_at_the_edges_of_blocks_and_heads(lengths: tuple[int, ...], shared: int) -> None:
    _assert_same(small_model(), prompts(lengths, shared=shared))


def test_long_prompts_whose_probabilities_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pass, "_room_for_probabilities", lambda self: None)
    _assert_same(small_model(targets=ALL), prompts())


def test_probabilities_are_kept_where_they_are_small_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    forward = attention.forward

    def spied(blocks: Any, q: Tensor, *rest: Any) -> None:
        seen.add((q.shape[1] > 400, rest[-1] is not None))
        forward(blocks, q, *rest)

    monkeypatch.setattr(attention, "forward", spied)
    loss_and_gradients(small_model(num_hidden_layers=2), prompts((600, 20), shared=0))
    assert (True, False) in seen
    assert (False, True) in seen
    assert (True, True) not in seen


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_a_batch_and_of_each_prompt_alone(kind: str) -> None:
    model, batch = small_model(kind, targets=ALL).eval(), prompts()
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], answer_positions=batch["answer_positions"])
        assert "loss" not in together
        alone = [
            model(input_ids=row[None, : int(last) + 1], answer_positions=last[None])["logits"]
            for row, last in zip(batch["input_ids"], batch["answer_positions"], strict=True)
        ]
        with by_modules():
            expected = model(**batch)
    torch.testing.assert_close(together["logits"], expected["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat(alone), expected["logits"], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch)["loss"], expected["loss"])


def test_micro_batches_of_a_step_add_up_to_it() -> None:
    model, batch = small_model(), prompts()
    whole = loss_and_gradients(model, batch)[2]
    model.zero_grad()
    for part in (slice(0, 1), slice(1, 3), slice(3, 5)):
        model(**{name: values[part] for name, values in batch.items()}, num_items_in_batch=torch.tensor(5))[
            "loss"
        ].backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-6)


def test_a_scaled_loss_has_scaled_gradients() -> None:
    model, batch = small_model(), prompts()
    plain = loss_and_gradients(model, batch)[2]
    model.zero_grad()
    (3 * model(**batch)["loss"]).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, 3 * plain[name])


def test_noise_on_the_embeddings_is_every_prompts_own() -> None:
    model, batch = small_model(), prompts()
    generator = torch.Generator()

    def noise(module: Any, inputs: Any, output: Tensor) -> Tensor:
        generator.manual_seed(7)
        return output + 0.1 * torch.rand(output.shape, generator=generator)

    handle = model.get_base_model().get_input_embeddings().register_forward_hook(noise)
    _assert_same(model, batch)
    handle.remove()
