"""LoRA's dropout prompt by prompt: drawn from torch's generator, the gradient that of what was computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.ranker.model.cpu.models import ALL, by_modules, loss_and_gradients, prompts, small_model


def test_the_gradient_is_that_of_the_loss_with_these_masks() -> None:
    model, batch = small_model(targets=ALL, dropout=0.4), prompts()
    torch.manual_seed(3)
    gradients = loss_and_gradients(model, batch)[2]
    parameters = dict(model.named_parameters())
    step = 2e-3 / torch.sqrt(sum(gradient.square().sum() for gradient in gradients.values()))  # type: ignore[arg-type]

    def loss_at(distance: float) -> float:
        with torch.no_grad():
            for name, gradient in gradients.items():
                parameters[name] += distance * step * gradient
            torch.manual_seed(3)
        loss: float = model(**batch)["loss"].item()
        with torch.no_grad():
            for name, gradient in gradients.items():
                parameters[name] -= distance * step * gradient
        return loss

    slope = (loss_at(1.0) - loss_at(-1.0)) / 2
    expected = float(step * sum(gradient.square().sum() for gradient in gradients.values()))
    assert slope == pytest.approx(expected, rel=0.02)


def test_the_same_state_draws_the_same_and_the_next_step_something_else() -> None:
    model, batch = small_model(dropout=0.4), prompts()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = loss_and_gradients(model, batch), loss_and_gradients(model, batch)
    torch.set_rng_state(state)
    again = loss_and_gradients(model, batch)
    assert torch.equal(first[0], again[0])
    for name, gradient in first[2].items():
        assert torch.equal(gradient, again[2][name]), name
    assert first[0] != second[0]


def test_in_the_mean_it_is_the_modules_dropout() -> None:
    model, batch = small_model(targets=ALL, dropout=0.3, num_hidden_layers=2), prompts()

    def drawn() -> torch.Tensor:
        # Without gradients too a model in training drops, as every module does.
        with torch.no_grad():
            return torch.stack([model(**batch)["logits"] for _ in range(200)])

    torch.manual_seed(0)
    ours = drawn()
    with by_modules():
        theirs = drawn()
    standard_error = ((ours.var(0) + theirs.var(0)) / len(ours)).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() / standard_error).max() < 4.5
    # Of each prompt; prompts of a batch have the masks of their common head in common.
    ratio = ours.std(0) / theirs.std(0)
    assert 0.7 < ratio.min() < ratio.max() < 1.4


def test_evaluation_draws_nothing() -> None:
    model, batch = small_model(dropout=0.4).eval(), prompts()
    state = torch.get_rng_state()
    with torch.no_grad():
        first, second = model(**batch)["logits"], model(**batch)["logits"]
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_and_everything(share: float) -> None:
    model, batch = small_model(dropout=share), prompts()
    logits = model(**batch)["logits"]
    if share:
        with model.disable_adapter():
            expected: Any = model(**batch)["logits"]
    else:
        expected = small_model()(**batch)["logits"]
    torch.testing.assert_close(logits, expected)
