"""Models that are trained once more: with all that is known when they are asked, and with nothing later."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from llamarec.data.config import DataConfig
from llamarec.data.prepared import PreparedData, load_prepared
from llamarec.errors import ArtifactError
from llamarec.experts.known import known_at, known_now
from llamarec.retriever.candidates import load_candidates
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.model import LRURec
from llamarec.retriever.refit import refitted, trained_before
from llamarec.retriever.serving import load_retriever, load_stage
from llamarec.retriever.train import train_retriever
from llamarec.vocabulary import Asked, Experiment

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


def _models(experiment: Experiment, data: PreparedData) -> list[LRURec]:
    """For the questions of validation, of the test, and of today."""
    return [one._models[0] for one in load_stage(experiment, data).learned]


def test_validation_is_asked_of_one_model_and_what_comes_later_of_the_other(
    experiment: Experiment, data: PreparedData, table: Path, tmp_path: Path
) -> None:
    without = _trained(table, tmp_path, refit="never")
    with_it, without_it = (load_candidates(one, data) for one in (experiment, without))
    np.testing.assert_array_equal(with_it["validation"].scores, without_it["validation"].scores)
    assert not np.array_equal(with_it["test"].scores, without_it["test"].scores)
    assert load_stage(experiment, data).digest != load_stage(without, data).digest

    models = _models(experiment, data)
    assert not any(_same(*pair) for pair in itertools.combinations(models, 2))
    stage = load_stage(experiment, data)
    for number, known in enumerate((known_at(data, "validation"), known_at(data, "test"), known_now(data))):
        assert stage.experts(known)[0] is stage.learned[number]
    # The files say the same as the training did.
    asked = load_retriever(experiment, data, known=known_at(data, "test"))
    test = with_it["test"]
    histories = [data.sequences.history(int(user), "test") for user in test.user_ids]
    last = int(data.sequences.timestamps[data.sequences.offsets[:-1] + data.sequences.validation_ends - 1].max())
    items, _ = asked.propose(histories, CONFIG.top_k, [last] * len(histories))
    np.testing.assert_array_equal(items, test.item_ids)

    assert all(_same(one, models[0]) for one in _models(without, data))


@pytest.mark.parametrize(("asked", "number"), [("test", 1), ("now", 2)])
def test_it_is_trained_on_all_that_is_known_then_and_on_nothing_later(
    asked: Asked, number: int, experiment: Experiment, data: PreparedData, tmp_path: Path
) -> None:
    model = _models(experiment, data)[number]
    own = RetrieverTrainer(data, CONFIG, experiment.retriever, QUIET)
    sequences = data.sequences
    lengths = np.diff(sequences.offsets)
    ends = sequences.validation_ends if asked == "test" else lengths
    assert trained_before(asked, data).sequences.train_ends.tolist() == ends.tolist()
    assert ends.sum() > sequences.train_ends.sum()

    is_later = np.arange(len(sequences.item_ids)) - np.repeat(sequences.offsets[:-1], lengths) >= np.repeat(
        ends, lengths
    )
    assert is_later.any() == (asked == "test")
    others = replace(data, sequences=replace(sequences, item_ids=np.where(is_later, 1, sequences.item_ids)))
    (again,) = refitted(asked, others, CONFIG, tmp_path, QUIET, [own])
    assert _same(again.trained(), model)


def test_a_killed_one_goes_on(experiment: Experiment, data: PreparedData, tmp_path: Path) -> None:
    model = _models(experiment, data)[1]
    own = RetrieverTrainer(data, CONFIG, experiment.retriever, QUIET)
    assert own.state.best_epoch > 1
    begun = replace(own.state, best_epoch=1)
    (first,) = refitted("test", data, CONFIG, tmp_path, QUIET, [_with(own, begun)])
    assert first.state.epoch == 1

    (second,) = refitted("test", data, CONFIG, tmp_path, QUIET, [own])
    assert second.state.history[0] == first.state.history[0]
    assert second.state.epoch == own.state.best_epoch
    assert _same(second.trained(), model)


def _with(trainer: RetrieverTrainer, state: object) -> RetrieverTrainer:
    copy = object.__new__(RetrieverTrainer)
    vars(copy).update(vars(trainer) | {"state": state})
    return copy


def test_leave_one_out_has_no_other_model_for_its_test_unless_asked(table: Path, tmp_path: Path) -> None:
    experiment, digests = _trained(table, tmp_path, split="leave_one_out"), []
    data = load_prepared(experiment.data)
    own, of_test, now = _models(experiment, data)
    assert _same(own, of_test)
    assert not _same(own, now)
    digests.append(load_stage(experiment, data).digest)

    _trained(table, tmp_path, split="leave_one_out", refit="always")
    again, of_test, same = _models(experiment, data)
    assert _same(again, own)
    assert not _same(of_test, own)
    assert _same(same, now)
    digests.append(load_stage(experiment, data).digest)

    # And back: nothing of it is left.
    _trained(table, tmp_path, split="leave_one_out", refit="never")
    assert not (experiment.retriever / "refit").exists()
    assert all(_same(one, own) for one in _models(experiment, data))
    digests.append(load_stage(experiment, data).digest)
    # Nothing that a ranker learns from depends on the model of today; what is recommended does.
    assert digests[0] == digests[2] != digests[1]


def test_what_is_recommended_depends_on_the_model_of_today(table: Path, tmp_path: Path) -> None:
    experiment = _trained(table, tmp_path, split="leave_one_out")
    data = load_prepared(experiment.data)
    first = load_retriever(experiment, data)
    _trained(table, tmp_path, split="leave_one_out", refit="never")
    second = load_retriever(experiment, data)
    assert first.digest == second.digest
    assert first.made_of != second.made_of


@pytest.mark.parametrize("name", ["retriever-test.safetensors", "retriever-now.safetensors"])
def test_one_that_is_lost_is_missed_by_name(name: str, table: Path, tmp_path: Path) -> None:
    experiment = _trained(table, tmp_path)
    (experiment.retriever / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        load_stage(experiment, load_prepared(experiment.data))
