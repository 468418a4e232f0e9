"""Histories packed into passes are the same function as the modules' own passes over a padded batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from llamarec.ranker.model.cpu import pooled
from llamarec.ranker.model.cpu.form import form_of
from llamarec.ranker.model.cpu.packed import packs_of
from llamarec.ranker.model.items import features
from llamarec.ranker.model.items import head as head_module
from llamarec.ranker.model.items.forward import ItemForward, as_item_model, collate_histories
from llamarec.ranker.model.items.head import NO_LABEL, ItemHead
from llamarec.ranker.prompts.history_samples import HistorySample
from tests.ranker.model.cpu.models import ALL, KINDS, adapted, loss_and_gradients, plain_model

NUM_ITEMS = 40


def item_model(kind: str = "llama", *, targets: tuple[str, ...] = ALL, dropout: float = 0.0, **sizes: Any) -> Any:
    """A model that scores 40 items, with LoRA and a head that do something; in training mode."""
    model = plain_model(kind, **sizes)
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(NUM_ITEMS, 12, generator=generator).half()
    head = ItemHead(features, torch.arange(NUM_ITEMS), model.config.hidden_size)
    made = adapted(as_item_model(model, head), targets=targets, dropout=dropout)
    made.get_base_model().item_head.requires_grad_(True)
    for parameter in made.get_base_model().item_head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def histories(lengths: tuple[int, ...], *, items: int = 4, seed: int = 1) -> dict[str, Tensor]:
    """Rows of these numbers of tokens, each with up to `items` answers, the last one at its end."""
    generator = torch.Generator().manual_seed(seed)
    samples: list[HistorySample] = []
    for length in lengths:
        count = min(items, length)
        ends = sorted({length - 1, *torch.randperm(length, generator=generator)[: count - 1].tolist()})
        samples.append(
            {
                "input_ids": torch.randint(0, 300, (length,), generator=generator).tolist(),
                "answer_positions": ends,
                "labels": torch.randint(1, NUM_ITEMS + 1, (len(ends),), generator=generator).tolist(),
            }
        )
    return collate_histories(samples, pad_token_id=0, multiple=1)


def _assert_same(model: Any, batch: dict[str, Tensor]) -> None:
    base = model.get_base_model()
    assert form_of(base, base.item_head.parameters()) is not None, "or it would be the modules' own way"
    loss, users, gradients = loss_and_gradients(model, batch)

    # In double precision the modules' way is what both mean.
    exact = copy.deepcopy(model).double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ItemForward, "goes_by_prompts", False)
        patch.setattr(Tensor, "float", Tensor.double)
        exact_loss, exact_users, expected = loss_and_gradients(exact, batch)

    torch.testing.assert_close(loss, exact_loss.to(torch.float32))
    torch.testing.assert_close(users, exact_users.to(torch.float32), rtol=1e-4, atol=1e-5)
    assert gradients.keys() == expected.keys()
    assert any("item_head.free" in name for name in gradients)
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    for name, gradient in gradients.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name].to(torch.float32), rtol=1e-4, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ALL, ("down_proj",)], ids="-".join)
def test_loss_vectors_and_gradients(kind: str, targets: tuple[str, ...]) -> None:
    _assert_same(item_model(kind, targets=targets), histories((30, 7, 55, 12, 20)))


@pytest.mark.parametrize("lengths", [(2,), (1, 9), (48, 49, 96, 97), (300, 2), (5,) * 30, (500, 400, 3)], ids=str)
def test_lengths_at_the_edges_of_blocks_and_packs(lengths: tuple[int, ...]) -> None:
    _assert_same(item_model(targets=("q_proj", "gate_proj")), histories(lengths))


def test_a_history_has_the_same_vector_in_any_company() -> None:
    model = item_model().eval()
    batch = histories((30, 7, 55, 12, 20))
    with torch.no_grad():
        together = model(**batch)["logits"]
        alone = torch.cat(
            [model(**{name: value[row : row + 1] for name, value in batch.items()})["logits"] for row in range(5)]
        )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_the_same_state_gives_the_same_bits_with_dropout_too() -> None:
    model, batch = item_model(dropout=0.2), histories((30, 7, 55, 12, 20) * 6)

    def run() -> dict[str, Tensor]:
        torch.manual_seed(5)
        return loss_and_gradients(model, batch)[2]

    first, second = run(), run()
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(6)
    assert not torch.equal(loss_and_gradients(model, batch)[0], loss_and_gradients(model, batch)[0])


def test_pieces_of_a_step_add_up_to_it() -> None:
    model, batch = item_model(), histories((30, 7, 55, 12, 20, 9))
    whole = loss_and_gradients(model, batch)[2]
    count = torch.tensor(int((batch["labels"] != NO_LABEL).sum()))
    model.zero_grad()
    for rows in (slice(0, 2), slice(2, 6)):
        model(**{name: value[rows] for name, value in batch.items()}, num_items_in_batch=count)["loss"].backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-6, msg=name)


def test_sampled_softmax_is_the_same_function_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "MOST_ITEMS", 10)
    monkeypatch.setattr(head_module, "NUM_SAMPLED", 16)
    model, batch = item_model(), histories((30, 7, 55, 12, 20))
    torch.manual_seed(5)
    loss, users, gradients = loss_and_gradients(model, batch)
    monkeypatch.setattr(ItemForward, "goes_by_prompts", False)
    torch.manual_seed(5)
    by_modules = loss_and_gradients(model, batch)
    torch.testing.assert_close(loss, by_modules[0])
    torch.testing.assert_close(users, by_modules[1], rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, by_modules[2][name], rtol=1e-3, atol=1e-5, msg=name)


def test_means_of_short_texts_are_those_of_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain_model("llama").requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    texts = [torch.randint(0, 300, (1 + number % 17,), generator=generator).tolist() for number in range(80)]
    monkeypatch.setattr(pooled, "_TEXTS_AT_ONCE", 33)
    packed = features.title_features(model, [[], *texts]).float()
    assert (packed[0] == 0).all()
    monkeypatch.setattr(features, "form_of", lambda model: None)
    by_modules = features.title_features(model, [[], *texts]).float()
    torch.testing.assert_close(packed.abs(), by_modules.abs(), rtol=0.02, atol=0.02)
    assert len(model.get_decoder().layers) == 3


def test_packs_hold_every_row_once_and_are_of_about_equal_size() -> None:
    lengths = torch.randint(10, 200, (61,), generator=torch.Generator().manual_seed(0)).tolist()
    packs = packs_of(lengths)
    assert sorted(row for pack in packs for row in pack) == list(range(61))
    assert len(packs) % 2 == 0
    totals = [sum(lengths[row] for row in pack) for pack in packs]
    assert max(totals) - min(totals) <= 200
    assert packs_of([7]) == [[0]]
