"""The baselines without training, by hand; and RecTools' loss, where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.standard.item_knn import ItemKnn, SharedUsers
from benchmarks.standard.popularity import Popularity
from benchmarks.standard.protocol import Fit, known_sequences
from benchmarks.standard.rectools_models import check_installed
from benchmarks.standard.sampled_logits import sampled_logits
from benchmarks.standard.sparse_rows import SparseRows, transitions
from benchmarks.standard.transition_rule import TransitionRule, served
from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError

NOW = np.zeros(1, dtype=np.int64)
# By time; the last two of each are validation and test.
SEQUENCES = {"u": "abcde", "v": "abdce", "w": "bcade", "x": "abced"}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("four")
    rows = [f"{user},{item},word{item},{time}" for user, items in SEQUENCES.items() for time, item in enumerate(items)]
    (folder / "four.csv").write_text("\n".join(["user,item,title,timestamp", *rows]) + "\n")
    config = DataConfig(
        str(folder / "four.csv"),
        experiment_root=str(folder / "out"),
        min_user_interactions=1,
        min_item_interactions=1,
    )
    return prepare(config)


def _ids(data: PreparedData, letters: str) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array([data.items.index(letter) for letter in letters], dtype=np.int32)


def _by_letter(data: PreparedData, row: np.ndarray[tuple[int], np.dtype[np.float32]]) -> dict[str, float]:
    return {letter: float(row[data.items.index(letter)]) for letter in "abcde"}


def test_popularity_counts_the_training_part(four: PreparedData) -> None:
    # abc, abd, bca, abc
    row = Popularity(four, "test").scores([_ids(four, "a")], NOW)[0]
    assert _by_letter(four, row) == {"a": 4, "b": 4, "c": 3, "d": 1, "e": 0}


def test_transitions_are_those_of_the_training_part(four: PreparedData) -> None:
    counts = transitions(known_sequences(four, "validation"), four.num_items)
    found = {
        four.items[row] + four.items[column]: int(value)
        for row, column, value in zip(counts.rows, counts.columns, counts.values, strict=True)
    }
    assert found == {"ab": 3, "bc": 3, "bd": 1, "ca": 1}


def test_item_knn_sums_the_shared_users(four: PreparedData) -> None:
    shared = SharedUsers(four, "test")
    row = ItemKnn(shared.together).scores([_ids(four, "ac")], NOW)[0]

    # a with b: 4, with c: 3, with d: 1; c with a and b: 3.
    assert _by_letter(four, row) == {"a": 3, "b": 7, "c": 3, "d": 1, "e": 0}
    assert shared.counts[_ids(four, "abcde")].tolist() == [4, 4, 3, 1, 0]


def test_the_rule_lists_rings_around_the_last_item(four: PreparedData) -> None:
    rule = TransitionRule(four, "test", ((7, 2, 1),))
    row = rule.scores([_ids(four, "b")], NOW)[0]
    # First ring of b: c (3 times) and d (once); second: a. e is in none.
    ranks = {letter: -value for letter, value in _by_letter(four, row).items() if np.isfinite(value)}
    assert ranks == {"c": 0, "d": 1, "a": 2}

    row = rule.scores([_ids(four, "cb")], NOW)[0]
    assert not np.isfinite(row[_ids(four, "cbe")]).any(), "the history is left out"


def test_what_a_ring_lacks_comes_from_earlier_ones() -> None:
    assert served([[1, 2, 3], [4], [5, 6]], (2, 2, 1)) == [1, 2, 3, 4, 5]
    assert served([[1, 2, 3, 4], [], []], (2, 1, 1)) == [1, 2, 3, 4]
    assert served([[], [7], [8, 9]], (2, 1, 1)) == [7, 8, 9]


def test_sparse_rows_are_a_matrix() -> None:
    generator = np.random.default_rng(0)
    rows, columns = generator.integers(0, 6, 40), generator.integers(0, 5, 40)
    values = generator.random(40)
    dense = np.zeros((6, 5))
    np.add.at(dense, (rows, columns), values)
    sparse = SparseRows(rows, columns, values, (6, 5))

    parts = [np.array([0, 3]), np.array([], dtype=np.int64), np.array([5, 5, 1])]
    weights = [generator.random(len(part)) for part in parts]
    wanted = np.stack([weight @ dense[part] for part, weight in zip(parts, weights, strict=True)])
    np.testing.assert_allclose(sparse.sums(parts, weights), wanted, rtol=1e-5)
    np.testing.assert_allclose(sparse.transposed().sums([np.array([2])])[0], dense[:, 2], rtol=1e-5)

    kept = sparse.largest(2).sums([np.array([row]) for row in range(6)])
    for row, found in zip(dense, kept, strict=True):
        largest = np.sort(row[row > 0])[::-1][:2]
        np.testing.assert_allclose(np.sort(found[found > 0])[::-1], largest, rtol=1e-5)


def test_sampled_logits_have_the_gradients_of_gathered_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    states, items = (torch.randn(size, 8, generator=generator, requires_grad=True) for size in (130, 20))
    samples = torch.randint(20, (130, 30), generator=generator)
    weights = torch.randn(130, 30, generator=generator)

    gathered = torch.bmm(items[samples], states.unsqueeze(2)).squeeze(2)
    wanted = torch.autograd.grad((gathered * weights).sum(), (states, items))
    logits = sampled_logits(states, items, samples)
    torch.testing.assert_close(logits, gathered)
    torch.testing.assert_close(torch.autograd.grad((logits * weights).sum(), (states, items)), wanted)


@pytest.mark.skipif(importlib.util.find_spec("rectools") is not None, reason="RecTools is installed")
def test_missing_rectools_is_named_with_the_command() -> None:
    with pytest.raises(ConfigError, match="pip install"):
        check_installed()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gated", [False, True])
def test_the_loss_is_that_of_rectools_and_a_model_trains(data: PreparedData, tmp_path: Path, gated: bool) -> None:
    pytest.importorskip("rectools", reason="RecTools is not installed")
    from benchmarks.standard import rectools_models

    model = rectools_models._new_model(rectools_models.Recipe(gated=gated, width=16, num_negatives=8))
    model._build_model_from_dataset(rectools_models._dataset(data))
    batch = next(iter(model.data_preparator.get_dataloader_train()))
    module = model.lightning_model.eval()

    ours = rectools_models._loss(module.torch_model, batch)
    theirs = module._calc_sampled_softmax_loss(module.get_batch_logits(batch), batch["y"], batch["yw"])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    fitted = rectools_models.fit(data, Fit(seed=1, folder=tmp_path, max_epochs=1), gated=gated)
    (scorer,) = fitted.scorers.values()
    history = data.sequences.history(0, "test")
    assert np.isfinite(scorer.scores([history], NOW)[0, 1:]).all()
