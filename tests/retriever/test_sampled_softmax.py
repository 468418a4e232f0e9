"""Training on sampled items: what it estimates, what it repeats, what it refuses."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError
from llamarec.retriever.config import MOST_ITEMS_OF_WHOLE_SOFTMAX, RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.sampled_softmax import Negatives, StepItems, step_items
from llamarec.retriever.sampled_softmax import sampled_cross_entropy as in_any_type
from llamarec.retriever.state import load_state
from tests.samples import make_data

CONFIG = RetrieverConfig(
    hidden_size=16, dropout=0.2, batch_size=8, num_epochs=4, patience=50, max_length=10, softmax="sampled"
)
NUM_ITEMS, NUM_POSITIONS, WIDTH = 60, 12, 8


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return make_data()


def _trainer(data: PreparedData, folder: Path, config: RetrieverConfig = CONFIG) -> RetrieverTrainer:
    return RetrieverTrainer(data, replace(config, products="float32"), folder, Console(quiet=True))


def sampled_cross_entropy(
    states: torch.Tensor, vectors: torch.Tensor, bias: torch.Tensor, items: StepItems
) -> torch.Tensor:
    return in_any_type(states, vectors, bias, items, product_type=torch.float32)


def _weights(trainer: RetrieverTrainer) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(trainer.model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def test_the_mean_over_many_draws_is_the_whole_softmax() -> None:
    torch.manual_seed(0)
    states, vectors, bias = torch.randn(NUM_POSITIONS, WIDTH), torch.randn(NUM_ITEMS + 1, WIDTH), torch.randn(61)
    labels = torch.randint(1, NUM_ITEMS + 1, (NUM_POSITIONS,))
    whole = torch.nn.functional.cross_entropy((states @ vectors.T + bias)[:, 1:], labels - 1)
    rng = np.random.default_rng(1)
    negatives = Negatives([rng.integers(1, 10, 500).astype(np.int32)], NUM_ITEMS, 4096)

    losses = []
    for _ in range(30):
        items = step_items(labels, labels, negatives.draw())
        losses.append(float(sampled_cross_entropy(states, vectors[items.items_C], bias[items.items_C], items)))
    assert np.mean(losses) == pytest.approx(float(whole), abs=4 * np.std(losses) / 30**0.5 + 0.01)
    # Without the correction the popular items would count too much: the estimate depends on it.
    wrong = items._replace(log_expected_S=torch.zeros_like(items.log_expected_S))
    assert abs(float(sampled_cross_entropy(states, vectors[items.items_C], bias[items.items_C], wrong)) - whole) > 0.5


def test_a_label_that_was_drawn_does_not_count_twice() -> None:
    labels = torch.tensor([3])
    negatives = Negatives([np.full(1000, 3, dtype=np.int32)], 4, 64)
    items = step_items(labels, labels, negatives.draw())
    alone = sampled_cross_entropy(torch.zeros(1, WIDTH), torch.zeros(len(items.items_C), WIDTH), torch.zeros(4), items)
    others = items.drawn_S != items.labels_T[0]
    assert float(alone) == pytest.approx(float(torch.log(1 + torch.exp(-items.log_expected_S[others]).sum())))


def test_equal_keys_draw_equal_negatives_and_popular_items_more_often() -> None:
    windows = [np.array([5, 5, 5, 7], dtype=np.int32)]
    first, second = (Negatives(windows, 1000, 4000) for _ in range(2))
    first.draw()
    first.restart(1, 2)
    second.restart(1, 2)
    assert torch.equal(first.draw().items_S, second.draw().items_S)
    second.restart(1, 3)
    drawn = second.draw()
    assert not torch.equal(first.draw().items_S, drawn.items_S)

    counts = np.bincount(drawn.items_S.numpy(), minlength=1001)
    assert counts[0] == 0
    assert counts[5] == pytest.approx(4000 * (0.5 * 0.75 + 0.5 / 1000), rel=0.1)
    torch.testing.assert_close(
        drawn.log_expected_S[drawn.items_S == 7][0], torch.tensor(4000 * (0.5 * 0.25 + 0.5 / 1000)).log()
    )


def test_loss_and_gradients_are_those_of_the_plain_formula() -> None:
    torch.manual_seed(0)
    labels = torch.randint(1, NUM_ITEMS + 1, (200,))
    items = step_items(labels, labels, Negatives([labels.numpy().astype(np.int32)], NUM_ITEMS, 90).draw())
    num_items = len(items.items_C)
    leaves = torch.randn(200, WIDTH), torch.randn(num_items, WIDTH), torch.randn(num_items)
    for leaf in leaves:
        leaf.requires_grad_()

    def plain(states: torch.Tensor, vectors: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        logits = states @ vectors[items.drawn_S].T + bias[items.drawn_S] - items.log_expected_S
        logits = logits.masked_fill(items.drawn_S == items.labels_T[:, None], -torch.inf)
        own = (states * vectors[items.labels_T]).sum(dim=1) + bias[items.labels_T]
        return (torch.logsumexp(torch.cat([own[:, None], logits], dim=1), dim=1) - own).mean()

    expected, found = plain(*leaves), sampled_cross_entropy(*leaves, items)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * expected, leaves))

    rough = in_any_type(*leaves, items, product_type=torch.bfloat16)
    torch.testing.assert_close(rough, found, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("words", [False, True])
def test_some_vectors_are_those_of_the_whole_with_their_gradients(
    data: PreparedData, tmp_path: Path, words: bool
) -> None:
    model = _trainer(data, tmp_path, replace(CONFIG, title_words=words)).model
    if model.words is not None:
        torch.nn.init.normal_(model.words.vectors)
    items = torch.tensor([0, 3, 4, 17, data.num_items])
    factors = torch.randn(len(items), 16)
    gradients = []
    for vectors in (model.vectors()[items], model.vectors_of(items)):
        model.zero_grad()
        (vectors * factors).sum().backward()  # type: ignore[no-untyped-call]
        gradients.append([one.grad.clone() for one in model.parameters() if one.grad is not None])
    torch.testing.assert_close(model.vectors_of(items), model.vectors()[items])
    torch.testing.assert_close(*gradients)


def test_a_run_interrupted_at_every_epoch_ends_in_the_same_bits(data: PreparedData, tmp_path: Path) -> None:
    whole = _trainer(data, tmp_path / "whole")
    whole.fit()
    for epochs in range(1, CONFIG.num_epochs + 1):
        part = _trainer(data, tmp_path / "parts", replace(CONFIG, num_epochs=epochs, save_seconds=0.0))
        part.fit()
    assert part.state.history == whole.state.history
    assert _weights(part) == _weights(whole)


def test_it_learns_as_the_whole_softmax_does(tmp_path: Path) -> None:
    # Everybody walks round the same circle of 90 items: the next item is certain. Chance is 10 in 90.
    data = make_data(num_users=120, num_items=90, has_repeats=True)
    starts = np.repeat(np.arange(120), np.diff(data.sequences.offsets))
    steps = np.concatenate([np.arange(n) for n in np.diff(data.sequences.offsets)])
    circle = replace(data.sequences, item_ids=((starts + steps) % 90 + 1).astype(np.int32))
    config = replace(CONFIG, num_epochs=25, batch_size=16, learning_rate=2e-2, dropout=0.0, num_sampled=40)
    trainer = _trainer(replace(data, sequences=circle), tmp_path, config)
    trainer.fit()
    assert trainer.state.best_recall > 0.95


def test_a_training_of_an_earlier_version_is_the_one_with_the_whole_softmax(data: PreparedData, tmp_path: Path) -> None:
    trainer = _trainer(data, tmp_path, replace(CONFIG, softmax="auto", num_epochs=1))
    trainer.fit()
    earlier = load_state(tmp_path)
    assert earlier is not None
    assert not {"softmax", "num_sampled"} & set(earlier.identity)
    assert _trainer(data, tmp_path, replace(CONFIG, softmax="whole", num_epochs=1)).state.epoch == 1
    assert _trainer(data, tmp_path, replace(CONFIG, num_epochs=1)).state.epoch == 0


def test_large_catalogues_are_sampled_by_default() -> None:
    config = RetrieverConfig()
    assert not config.samples(MOST_ITEMS_OF_WHOLE_SOFTMAX)
    assert config.samples(MOST_ITEMS_OF_WHOLE_SOFTMAX + 1)
    assert not replace(config, softmax="whole").samples(10**9)
    assert not replace(config, label_smoothing=0.1).samples(10**9)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="--softmax sampled has no --label_smoothing"):
        replace(CONFIG, label_smoothing=0.1)
    with pytest.raises(ConfigError, match="--softmax 'half': one of auto, whole, sampled"):
        replace(CONFIG, softmax="half")
    with pytest.raises(ConfigError, match="--num_sampled 0: at least 1"):
        replace(CONFIG, num_sampled=0)
