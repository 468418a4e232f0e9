"""Lists for training places by retrievers that have not seen the users that they are for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from llamarec.checkpoints.trainer.signals import Interrupted
from llamarec.data.config import DataConfig
from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError, ConfigError
from llamarec.experts.build import ExpertBuilder
from llamarec.experts.expert_sum import ExpertSum
from llamarec.experts.known import Known, known_of_users
from llamarec.experts.weights import ExpertEvidence, ExpertWeights
from llamarec.files import write_json
from llamarec.retriever import train
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.cross_fitting import cross_fitted_lists, folds_of_users, lists_from_retriever
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.hard_negatives import TrainingLists, num_folds_of
from llamarec.retriever.learned_expert import MODEL, LearnedExpert
from llamarec.retriever.mining import mine_hard_negatives
from llamarec.retriever.model import LRURec
from llamarec.retriever.progress import FitProgress
from llamarec.retriever.published import weights_digest
from llamarec.vocabulary import Experiment
from tests.samples import make_data

CONFIG = RetrieverConfig(
    hidden_size=16,
    dropout=0.2,
    batch_size=8,
    num_epochs=3,
    max_length=10,
    top_k=6,
    products="float32",
    learning_rate=1e-2,
)
QUIET = Console(quiet=True)


def _lists(data: PreparedData, folder: Path, config: RetrieverConfig = CONFIG, num_epochs: int = 3) -> TrainingLists:
    return cross_fitted_lists(data, config, folder, QUIET, num_epochs=num_epochs)


def _with_other_item(data: PreparedData, user: int, position: int) -> PreparedData:
    items = data.sequences.item_ids.copy()
    items[data.sequences.offsets[user] + position] = 1 + items[data.sequences.offsets[user] + position] % data.num_items
    return replace(data, sequences=replace(data.sequences, item_ids=items))


def _users_of_places(data: PreparedData) -> NDArray[np.int64]:
    return np.repeat(np.arange(data.num_users), data.sequences.num_training_positions())


def test_parts_are_nearly_equal_and_belong_to_the_seed() -> None:
    parts = folds_of_users(101, 3, seed=1)
    assert sorted(np.bincount(parts).tolist()) == [33, 34, 34]
    assert parts.tolist() == folds_of_users(101, 3, seed=1).tolist()
    assert parts.tolist() != folds_of_users(101, 3, seed=2).tolist()


def test_what_a_user_took_decides_nothing_in_the_lists_of_the_users_of_the_same_part(tmp_path: Path) -> None:
    data = make_data()
    user, parts = 7, folds_of_users(data.num_users, 2, CONFIG.seed)
    last = int(data.sequences.train_ends[user]) - 1
    before = _lists(data, tmp_path / "a")
    after = _lists(_with_other_item(data, user, last), tmp_path / "b")
    users_P = _users_of_places(data)
    of_part_P = parts[users_P] == parts[user]
    # The changed item is the label of the user's last place, and the history of none.
    others_P = of_part_P & (users_P != user)
    np.testing.assert_array_equal(before.items_PK[others_P], after.items_PK[others_P])
    np.testing.assert_array_equal(before.label_ranks_P[others_P], after.label_ranks_P[others_P])
    own = np.flatnonzero(users_P == user)
    np.testing.assert_array_equal(before.items_PK[own[:-1]], after.items_PK[own[:-1]])
    assert (before.items_PK[~of_part_P] != after.items_PK[~of_part_P]).any(), "the other part is trained on it"


def test_each_part_has_the_lists_of_a_retriever_of_the_other_users(tmp_path: Path) -> None:
    data = make_data(num_users=9)
    parts = folds_of_users(9, 3, CONFIG.seed)
    found = _lists(data, tmp_path / "all", replace(CONFIG, hard_negative_folds=3))
    for part in range(3):
        rest = replace(CONFIG, num_epochs=3, patience=50)
        trainer = RetrieverTrainer(data, rest, tmp_path / f"{part}", QUIET)
        trainer.windows = [data.sequences.train(u)[-11:] for u in range(9) if parts[u] != part]
        while trainer.state.epoch < 3:
            trainer.model.masks.restart(CONFIG.seed, trainer.state.epoch)
            trainer._train_epoch(trainer.state.epoch, _Silent())  # type: ignore[arg-type]
            trainer.state.epoch += 1
        whole = mine_hard_negatives([trainer.model], data, 6, max_length=10, exclude=True)
        own_P = parts[_users_of_places(data)] == part
        np.testing.assert_array_equal(found.items_PK[own_P], whole.items_PK[own_P])
        np.testing.assert_array_equal(found.label_ranks_P[own_P], whole.label_ranks_P[own_P])


class _Silent:
    def stepped(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("epochs_before", range(1, 6))
def test_a_training_that_was_cut_off_goes_on_to_the_same_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs_before: int
) -> None:
    data, config = make_data(num_users=12), replace(CONFIG, save_seconds=0)
    whole = _lists(data, tmp_path / "whole", config)
    trained: list[RetrieverTrainer] = []
    epoch = RetrieverTrainer._epoch

    def cut_off(trainer: RetrieverTrainer, progress: FitProgress) -> None:
        if len(trained) == epochs_before:
            raise KeyboardInterrupt
        trained.append(trainer)
        epoch(trainer, progress)

    with monkeypatch.context() as patch:
        patch.setattr(RetrieverTrainer, "_epoch", cut_off)
        with pytest.raises(Interrupted):
            _lists(data, tmp_path / "cut", config)
    console = Console(width=200)
    with console.capture() as said:
        again = cross_fitted_lists(data, config, tmp_path / "cut", console, num_epochs=3)
    assert said.get().count("loss") == 6 - epochs_before, "no epoch is trained twice"
    np.testing.assert_array_equal(again.items_PK, whole.items_PK)
    np.testing.assert_array_equal(again.label_ranks_P, whole.label_ranks_P)


def test_a_training_of_more_epochs_than_are_wanted_is_replaced(tmp_path: Path) -> None:
    data = make_data(num_users=12)
    _lists(data, tmp_path / "longer", num_epochs=5)
    np.testing.assert_array_equal(_lists(data, tmp_path / "longer").items_PK, _lists(data, tmp_path / "new").items_PK)


def test_a_damaged_state_of_a_part_is_trained_again_alone(tmp_path: Path) -> None:
    data = make_data(num_users=12)
    whole = _lists(data, tmp_path)
    state = tmp_path / "folds" / "2-of-2" / "training_state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"(?s)2-of-2.*remove the file: only this fold is trained again"):
        _lists(data, tmp_path)
    state.unlink()
    np.testing.assert_array_equal(_lists(data, tmp_path).items_PK, whole.items_PK)


def test_a_part_says_which_it_is_and_a_finished_one_is_not_trained_again(tmp_path: Path) -> None:
    data, console = make_data(num_users=12), Console(width=200)
    with console.capture() as said:
        cross_fitted_lists(data, CONFIG, tmp_path, console, num_epochs=2)
    lines = said.get().splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        f"fold {part} of 2, epoch {epoch} of 2" for part in (1, 2) for epoch in (1, 2)
    ]
    assert "validation" not in said.get()
    with console.capture() as said:
        cross_fitted_lists(data, CONFIG, tmp_path, console, num_epochs=2)
    assert said.get().splitlines() == [f"fold {part} of 2, the earlier run is finished at epoch 2" for part in (1, 2)]
    with console.capture() as said:
        cross_fitted_lists(data, replace(CONFIG, restart=True), tmp_path, console, num_epochs=2)
    assert "finished" not in said.get()
    assert "epoch 2 of 2" in said.get()


@pytest.mark.parametrize("num_users", [1, 2])
def test_more_parts_than_users(tmp_path: Path, num_users: int) -> None:
    data = make_data(num_users=num_users)
    found = _lists(data, tmp_path, replace(CONFIG, hard_negative_folds=5))
    assert (found.label_ranks_P > 0).all()
    assert (found.items_PK > 0).all()


def test_the_lists_of_the_command_are_cross_fitted_unless_it_says_one_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data()
    monkeypatch.setattr(train, "prepare", lambda *args, **kwargs: data)
    written = {}
    for folds in (2, 1):
        config = replace(CONFIG, hard_negative_folds=folds, experts="none")
        train.train_retriever(DataConfig("made-up", experiment_root=str(tmp_path)), config, QUIET)
        path = Experiment(tmp_path, "made-up").hard_negatives
        made_by = json.loads(pl.read_parquet_metadata(path)["llamarec"])
        assert made_by["config"]["hard_negative_folds"] == folds
        written[folds] = pl.read_parquet(path)["candidate_ids"].to_list()
    best = int(made_by["best_epoch"])
    assert written[2] == _lists(data, tmp_path / "again", num_epochs=best).items_PK.tolist()
    assert written[1] != written[2]
    assert not (Experiment(tmp_path, "made-up").retriever / "folds").exists(), "of another number of folds"


def test_lists_that_a_ranker_was_trained_on_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, experiment = make_data(), Experiment(tmp_path, "made-up")
    monkeypatch.setattr(train, "prepare", lambda *args, **kwargs: data)
    data_config, one_fold = DataConfig("made-up", experiment_root=str(tmp_path)), replace(CONFIG, hard_negative_folds=1)
    train.train_retriever(data_config, one_fold, QUIET)
    lists = experiment.hard_negatives.read_bytes()
    digest = weights_digest(experiment)
    ranker: dict[str, Any] = {"retriever_digest": digest, "config": {"hard_negatives": 0.5}}
    write_json(experiment.ranker / "ranker.json", ranker)
    with pytest.raises(ArtifactError, match=r"(?s)hard_negative_folds 1 -> 2.*to keep .* --hard_negative_folds 1 "):
        train.train_retriever(data_config, CONFIG, QUIET)
    train.train_retriever(data_config, one_fold, QUIET)
    assert experiment.hard_negatives.read_bytes() == lists
    ranker["config"]["hard_negatives"] = 0.0
    write_json(experiment.ranker / "ranker.json", ranker)
    train.train_retriever(data_config, CONFIG, QUIET)
    assert experiment.hard_negatives.read_bytes() != lists


@pytest.mark.parametrize("has_lists", [True, False])
def test_a_ranker_without_lists_costs_no_further_retriever(tmp_path: Path, has_lists: bool) -> None:
    data_config = DataConfig("made-up", experiment_root=str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "defaults_for", lambda code: {"num_epochs": 1, "hidden_size": 16})
        train.train_retriever_for(6, make_data(), data_config, QUIET, has_lists=has_lists)
    assert num_folds_of(Experiment(tmp_path, "made-up"), make_data()) == (2 if has_lists else 1)


def test_no_fold_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="--hard_negative_folds 0: at least 1"):
        RetrieverConfig(hard_negative_folds=0)


@pytest.mark.parametrize("num_folds", [1, 2])
def test_no_expert_has_counted_the_label_it_is_asked_about(num_folds: int) -> None:
    data = make_data(num_users=40, num_items=60)
    config = replace(CONFIG, hard_negative_folds=num_folds)
    user = int(np.argmax(data.sequences.train_ends))
    last = int(data.sequences.offsets[user] + data.sequences.train_ends[user]) - 1
    changed_items = data.sequences.item_ids.copy()
    changed_items[last] = next(item for item in range(1, 61) if item not in data.sequences.whole(user))
    changed = replace(data, sequences=replace(data.sequences, item_ids=changed_items))

    torch.manual_seed(0)
    model = LRURec(data.num_items, width=16, num_blocks=1, dropout=0.0)

    def lists_of(some: PreparedData, known: Callable[[NDArray[np.bool_]], Known]) -> list[list[int]]:
        builder = ExpertBuilder(some)
        weights = ExpertWeights(tuple(ExpertEvidence(name, 1.0, 0.0, 0.0) for name in [MODEL, *builder.names]))

        def order(users: NDArray[np.bool_]) -> ExpertSum:
            return builder.sum_of(LearnedExpert([model], 10), known(users), weights, excludes_history=True)

        found = lists_from_retriever([model], some, config, order).items_PK
        before = int(some.sequences.num_training_positions()[:user].sum())
        # The last position has the changed item as its label, which its own list leaves out.
        of_user: list[list[int]] = found[before : before + int(some.sequences.train_ends[user]) - 2].tolist()
        return of_user

    assert lists_of(data, partial(known_of_users, data)) == lists_of(changed, partial(known_of_users, changed))

    everybody = np.ones(data.num_users, dtype=bool)
    with_own = [lists_of(one, lambda _, one=one: known_of_users(one, everybody)) for one in (data, changed)]  # type: ignore[misc]
    assert with_own[0] != with_own[1], "the test would see it"
