"""Item vectors and their likelihood; what whitening and sampling do."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from llamarec.ranker.model.items import head as head_module
from llamarec.ranker.model.items.features import whitened
from llamarec.ranker.model.items.head import ItemHead, head_weights, loss_of

NUM_ITEMS = 50


@pytest.fixture
def head() -> ItemHead:
    torch.manual_seed(0)
    made = ItemHead(torch.randn(NUM_ITEMS, 8).half(), torch.arange(NUM_ITEMS), 16)
    torch.nn.init.normal_(made.free, std=0.05)
    return made.train()


def test_the_loss_is_minus_the_log_probability_over_the_catalogue(head: ItemHead) -> None:
    users, labels = head.users(torch.randn(5, 16)), torch.tensor([1, 7, 7, 50, 3])
    expected = -F.log_softmax(head.logits(users), dim=1)[torch.arange(5), labels - 1].sum()
    torch.testing.assert_close(loss_of(users, head.choices(labels), labels), expected)


def test_the_bias_starts_as_half_the_log_of_the_share(head: ItemHead) -> None:
    shares = torch.arange(1, NUM_ITEMS + 1) / torch.arange(1, NUM_ITEMS + 1).sum()
    torch.testing.assert_close(head.choices(torch.tensor([1])).bias_C.detach(), 0.5 * shares.log())
    assert float(torch.exp(head.choices(torch.tensor([1])).log_scale.detach())) == pytest.approx(10)


def test_sampling_estimates_the_sum_over_the_catalogue(head: ItemHead, monkeypatch: pytest.MonkeyPatch) -> None:
    users, labels = head.users(torch.randn(4, 16)).detach(), torch.tensor([2, 9, 9, 31])
    head.requires_grad_(False)
    whole = float(loss_of(users, head.choices(labels), labels))
    monkeypatch.setattr(head_module, "MOST_ITEMS", 10)
    monkeypatch.setattr(head_module, "NUM_SAMPLED", 20_000)
    torch.manual_seed(1)
    assert float(loss_of(users, head.choices(labels), labels)) == pytest.approx(whole, rel=0.01)

    monkeypatch.setattr(head_module, "NUM_SAMPLED", 16)
    few = [float(loss_of(users, head.choices(labels), labels)) for _ in range(400)]
    assert min(few) < whole < max(few)
    assert sum(few) / len(few) == pytest.approx(whole, rel=0.1)
    # A validation is over the whole catalogue.
    assert float(loss_of(users, head.eval().choices(labels), labels)) == pytest.approx(whole, rel=1e-5)


def test_logits_in_blocks_are_the_same(head: ItemHead, monkeypatch: pytest.MonkeyPatch) -> None:
    users = head.users(torch.randn(3, 16))
    whole = head.logits(users)
    monkeypatch.setattr(head_module, "_ITEMS_AT_ONCE", 7)
    torch.testing.assert_close(head.logits(users), whole)


def test_whitened_features_have_no_direction_that_counts_more() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 6) * torch.tensor([100.0, 10.0, 1.0, 1.0, 0.1, 0.1]) + 5
    x[7] = 0
    features = whitened(x)
    assert features.shape == (400, 6)
    assert (features[7] == 0).all()
    kept = torch.cat([features[:7], features[8:]])
    torch.testing.assert_close(kept.norm(dim=1), torch.full((399,), 6**0.5))
    deviations = kept.std(dim=0)
    assert deviations.max() / deviations.min() < 1.3


def test_titles_that_are_all_equal_are_no_division_by_zero() -> None:
    assert torch.isfinite(whitened(torch.ones(5, 3))).all()
    assert torch.isfinite(whitened(torch.zeros(5, 3))).all()


def test_the_plan_counts_what_is_trained(head: ItemHead) -> None:
    assert head_weights(NUM_ITEMS, 8, 16) == sum(one.numel() for one in head.parameters())
