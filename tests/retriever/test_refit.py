"""The model that answers the test's questions: trained once more with the validation part, and with nothing later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from llamarec.data.config import DataConfig
from llamarec.data.prepared import PreparedData, load_prepared
from llamarec.experts.known import known_at, known_now
from llamarec.retriever.candidates import load_candidates
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.model import LRURec
from llamarec.retriever.refit import REFIT_FOLDER, refitted, with_validation
from llamarec.retriever.serving import load_retriever, load_stage
from llamarec.retriever.train import train_retriever
from llamarec.vocabulary import Experiment

CONFIG = RetrieverConfig(
    hidden_size=8, batch_size=8, num_epochs=4, patience=50, max_length=10, top_k=5, hard_negative_folds=1
)
QUIET = Console(quiet=True)
DAY = 86_400


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk round a circle, each at the pace of a day; the later ones begin later."""
    path = tmp_path_factory.mktemp("raw") / "shop.csv"
    rows = [(u, (3 * u + 2 * day) % 40, (u + day) * DAY) for u in range(30) for day in range(12)]
    path.write_text("user,item,timestamp\n" + "".join(f"u{u},i{i},{t}\n" for u, i, t in rows), encoding="utf-8")
    return path


def _config(table: Path, root: Path, split: str = "temporal") -> DataConfig:
    return DataConfig(str(table), experiment_root=str(root), split=split, min_item_interactions=1, untitled_items="key")


def _trained(table: Path, root: Path, *, split: str = "temporal", refit: str = "auto") -> Experiment:
    config = _config(table, root, split)
    train_retriever(config, replace(CONFIG, refit=refit), QUIET)
    return config.experiment


@pytest.fixture(scope="module")
def experiment(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return _trained(table, tmp_path_factory.mktemp("refit"))


@pytest.fixture(scope="module")
def data(experiment: Experiment) -> PreparedData:
    return load_prepared(experiment.data)


def _same(one: LRURec, other: LRURec) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs)


def _models(experiment: Experiment, data: PreparedData) -> tuple[LRURec, LRURec]:
    learned = load_stage(experiment, data).learned
    return learned.own._models[0], learned.later._models[0]


def test_validation_is_asked_of_one_model_and_what_comes_later_of_the_other(
    experiment: Experiment, data: PreparedData, table: Path, tmp_path: Path
) -> None:
    without = _trained(table, tmp_path, refit="never")
    with_it, without_it = (load_candidates(one, data) for one in (experiment, without))
    np.testing.assert_array_equal(with_it["validation"].scores, without_it["validation"].scores)
    assert not np.array_equal(with_it["test"].scores, without_it["test"].scores)
    assert load_stage(experiment, data).digest != load_stage(without, data).digest

    own, later = _models(experiment, data)
    assert not _same(own, later)
    stage = load_stage(experiment, data)
    assert stage.experts(known_at(data, "validation"))[0] is stage.learned.own
    for known in (known_at(data, "test"), known_now(data)):
        assert stage.experts(known)[0] is stage.learned.later
    # The files say the same as the training did.
    asked = load_retriever(experiment, data, known=known_at(data, "test"))
    test = with_it["test"]
    histories = [data.sequences.history(int(user), "test") for user in test.user_ids]
    last = int(data.sequences.timestamps[data.sequences.offsets[:-1] + data.sequences.validation_ends - 1].max())
    items, _ = asked.propose(histories, CONFIG.top_k, [last] * len(histories))
    np.testing.assert_array_equal(items, test.item_ids)

    one, same = _models(without, data)
    assert _same(one, own)
    assert _same(one, same)


def test_it_is_trained_on_everything_before_the_cut_and_on_nothing_after(
    experiment: Experiment, data: PreparedData, tmp_path: Path
) -> None:
    _, later = _models(experiment, data)
    own = RetrieverTrainer(data, CONFIG, experiment.retriever, QUIET)
    sequences = data.sequences
    taken = np.concatenate([with_validation(data).sequences.train(user) for user in range(data.num_users)])
    assert len(taken) == sequences.validation_ends.sum() > sequences.train_ends.sum()

    # Other items after the cut.
    is_after = np.arange(len(sequences.item_ids)) - np.repeat(
        sequences.offsets[:-1], np.diff(sequences.offsets)
    ) >= np.repeat(sequences.validation_ends, np.diff(sequences.offsets))
    others = replace(data, sequences=replace(sequences, item_ids=np.where(is_after, 1, sequences.item_ids)))
    (again,) = refitted(others, CONFIG, tmp_path, QUIET, [own])
    assert _same(again.trained(), later)


def test_a_killed_one_goes_on(experiment: Experiment, data: PreparedData, tmp_path: Path) -> None:
    _, later = _models(experiment, data)
    own = RetrieverTrainer(data, CONFIG, experiment.retriever, QUIET)
    assert own.state.best_epoch > 1
    begun = replace(own.state, best_epoch=1)
    (first,) = refitted(data, CONFIG, tmp_path, QUIET, [_with(own, begun)])
    assert first.state.epoch == 1

    (second,) = refitted(data, CONFIG, tmp_path, QUIET, [own])
    assert second.state.history[0] == first.state.history[0]
    assert second.state.epoch == own.state.best_epoch
    assert _same(second.trained(), later)


def _with(trainer: RetrieverTrainer, state: object) -> RetrieverTrainer:
    copy = object.__new__(RetrieverTrainer)
    vars(copy).update(vars(trainer) | {"state": state})
    return copy


def test_leave_one_out_has_none_unless_asked(table: Path, tmp_path: Path) -> None:
    experiment = _trained(table, tmp_path / "auto", split="leave_one_out")
    assert not (experiment.retriever / REFIT_FOLDER).exists()
    own, later = _models(experiment, load_prepared(experiment.data))
    assert own is later

    _trained(table, tmp_path / "auto", split="leave_one_out", refit="always")
    own, later = _models(experiment, load_prepared(experiment.data))
    assert not _same(own, later)
    assert (experiment.retriever / REFIT_FOLDER).is_dir()

    # And back: nothing of it is left.
    _trained(table, tmp_path / "auto", split="leave_one_out")
    assert not (experiment.retriever / REFIT_FOLDER).exists()
    own, later = _models(experiment, load_prepared(experiment.data))
    assert own is later
