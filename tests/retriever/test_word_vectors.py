"""Words of titles in item vectors: the sums, their gradients, and what an item that nobody took has of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from llamarec.data.prepared import PreparedData
from llamarec.retriever.batches import pack
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.model import LRURec
from llamarec.retriever.scoring import catalogue_scores
from llamarec.retriever.state import load_state, save_state
from llamarec.retriever.word_vectors import WordVectors
from tests.samples import make_data

CONFIG = RetrieverConfig(
    hidden_size=16, num_blocks=1, dropout=0.0, batch_size=16, num_epochs=8, learning_rate=2e-2, max_length=10
)


def _words(generator: torch.Generator, items: int = 9, words: int = 7) -> Tensor:
    """Items without a word and words without an item are among them."""
    weights = torch.rand(items, words, generator=generator, dtype=torch.double)
    weights *= torch.rand(items, words, generator=generator) < 0.4
    weights[[0, 4]] = 0
    weights[:, [2, words - 1]] = 0
    return weights


def test_sums_and_gradients_are_those_of_the_matrix_product() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = _words(generator)
    vectors = torch.randn(7, 3, generator=generator, dtype=torch.double, requires_grad=True)
    towards = torch.randn(9, 3, generator=generator, dtype=torch.double)
    words = WordVectors(weights.to_sparse(), 3).double()
    words.vectors.data.copy_(vectors)

    sums, defined = words(), weights @ vectors
    torch.testing.assert_close(sums, defined)
    (sums * towards).sum().backward()
    (defined * towards).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(words.vectors.grad, vectors.grad)


def test_a_published_model_has_no_words_and_the_same_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    with_words = LRURec(8, width=16, num_blocks=2, dropout=0.1, words=_words(generator).float().to_sparse()).eval()
    assert with_words.words is not None
    torch.nn.init.normal_(with_words.words.vectors)
    plain = LRURec(8, width=16, num_blocks=2, dropout=0.1).eval()
    plain.load_state_dict(with_words.plain_state())

    histories = [np.array([1, 5, 8], np.int32), np.array([4], np.int32)]
    with torch.no_grad():
        ours, expected = (catalogue_scores(one, histories, max_length=5, exclude=True) for one in (plain, with_words))
    torch.testing.assert_close(ours, expected)


def test_the_trained_model_is_the_published_one(tmp_path: Path) -> None:
    data = make_data()
    trainer = RetrieverTrainer(data, replace(CONFIG, num_epochs=2), tmp_path, Console(quiet=True))
    trainer.fit()
    assert trainer.model.words is not None
    assert trainer.model.words.vectors.abs().max() > 0
    packed = pack([np.array([1, 2, 3], np.int32)])
    states = [model.eval()(packed.items_T, packed.positions_T) for model in (trainer.trained(), trainer.model)]
    torch.testing.assert_close(*states)


def _two_kinds() -> PreparedData:
    """Everybody stays with one of two kinds of items, and nobody takes the last ten items of each kind.

    An item's words are one of three of its kind, and one that it shares with an item of the other kind.
    """
    data = make_data(num_users=80, num_items=90, has_repeats=True)
    taken = data.sequences.item_ids
    owner = np.repeat(np.arange(80), np.diff(data.sequences.offsets))
    taken = (2 * (taken % 35) + 1 + owner % 2).astype(np.int32)
    titles = ["", *(f"{('cat', 'dog')[number % 2]}{number // 2 % 3} no{number // 2}" for number in range(90))]
    return replace(data, titles=titles, sequences=replace(data.sequences, item_ids=taken))


@pytest.mark.parametrize("seed", [1, 2])
def test_an_item_that_nobody_took_has_what_its_words_have_learned(tmp_path: Path, seed: int) -> None:
    data = _two_kinds()
    found = {}
    for title_words in (False, True):
        config = replace(CONFIG, title_words=title_words, init_from_titles=False, seed=seed)
        trainer = RetrieverTrainer(data, config, tmp_path / str(title_words), Console(quiet=True))
        trainer.fit()
        histories = [data.sequences.train(user) for user in range(80)]
        scores_UN = catalogue_scores(trainer.trained(), histories, max_length=10, exclude=False).detach().numpy()
        by_kind = [scores_UN[:, first::2] for first in (71, 72)]
        # Users of even numbers stay with odd ids.
        own, other = (np.stack([by_kind[(user + swap) % 2][user] for user in range(80)]) for swap in (0, 1))
        found[title_words] = (own > other).mean()

    assert found[True] > 0.9
    assert found[False] < 0.7


def test_without_words_in_two_titles_it_is_the_model_without_words(tmp_path: Path) -> None:
    data = make_data()
    data = replace(data, titles=["", *(f"key{number}" for number in range(data.num_items))])
    losses = []
    for title_words in (False, True):
        config = replace(CONFIG, title_words=title_words, num_epochs=2)
        trainer = RetrieverTrainer(data, config, tmp_path / str(title_words), Console(quiet=True))
        trainer.fit()
        losses.append([one["loss"] for one in trainer.state.history])
    assert losses[0] == losses[1]


def test_a_training_of_an_earlier_version_goes_on_without_words_and_is_replaced_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data()
    without = replace(CONFIG, title_words=False, num_epochs=2)
    RetrieverTrainer(data, without, tmp_path, Console(quiet=True)).fit()
    state = load_state(tmp_path)
    assert state is not None
    del state.identity["title_words"]
    save_state(state, tmp_path)

    RetrieverTrainer(data, replace(without, num_epochs=4), tmp_path, Console())
    assert "continuing the earlier run from epoch 2" in capsys.readouterr().out
    RetrieverTrainer(data, replace(without, title_words=True), tmp_path, Console())
    assert "title_words False -> True" in capsys.readouterr().out
