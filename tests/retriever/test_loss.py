"""The blockwise loss is the plain cross-entropy, with its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from llamarec.hardware import has_fast_bfloat16
from llamarec.retriever.loss import catalogue_cross_entropy


def _inputs(num_positions: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(num_positions, 16, generator=generator).requires_grad_()
    items = torch.randn(41, 16, generator=generator).requires_grad_()
    bias = torch.randn(41, generator=generator).requires_grad_()
    return states, items, bias, torch.randint(1, 41, (num_positions,), generator=generator)


# One block, a block and a bit, several.
@pytest.mark.parametrize("num_positions", [1, 64, 65, 200])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("product_type", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_loss_and_gradients_equal_the_plain_ones(
    num_positions: int, product_type: torch.dtype, tolerance: float, smoothing: float
) -> None:
    results = []
    for ours in (True, False):
        states, items, bias, labels = _inputs(num_positions)
        if ours:
            loss = catalogue_cross_entropy(states, items, bias, labels, smoothing=smoothing, product_type=product_type)
        else:
            loss = F.cross_entropy(states @ items.T + bias, labels, label_smoothing=smoothing)
        (3 * loss).backward()  # type: ignore[no-untyped-call]
        results.append((loss.detach(), states.grad, items.grad, bias.grad))
    for ours_value, plain in zip(*results, strict=True):
        assert ours_value is not None
        assert plain is not None
        assert (ours_value - plain).norm() <= tolerance * plain.norm()


def test_large_logits_do_not_overflow() -> None:
    states, items, bias, labels = _inputs(5)
    loss = catalogue_cross_entropy(states * 1e3, items, bias, labels, product_type=torch.float32)
    torch.testing.assert_close(loss, F.cross_entropy(states * 1e3 @ items.T + bias, labels))


def test_the_question_about_bfloat16_has_an_answer() -> None:
    assert has_fast_bfloat16() in (True, False)
