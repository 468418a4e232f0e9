"""Masks depend on their keys alone, and drop the share that was asked for."""

from __future__ import annotations

import pytest
import torch

from llamarec.retriever.dropout import Dropout, Masks


def test_the_same_keys_give_the_same_masks_whatever_was_drawn_between() -> None:
    masks = Masks()
    masks.restart(42, 3)
    first = masks.keep(torch.Size([5, 7]), 128)
    masks.restart(42, 4)
    other = masks.keep(torch.Size([5, 7]), 128)
    torch.rand(9)
    masks.restart(42, 3)
    assert torch.equal(masks.keep(torch.Size([5, 7]), 128), first)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_the_share_dropped_and_the_mean_kept(share: float) -> None:
    dropped = Dropout(share, Masks())(torch.ones(200, 500))
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)


def test_nothing_happens_in_evaluation_or_at_zero() -> None:
    x = torch.randn(4, 4)
    assert Dropout(0.0, Masks())(x) is x
    assert Dropout(0.5, Masks()).eval()(x) is x
