"""A retriever's files: one retriever or the other after a kill, verified by each reader, one training in a folder."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.file_set import FileSet
from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError, LlamarecError, LockedError
from llamarec.retriever import published
from llamarec.retriever.candidates import load_candidates
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.hard_negatives import load_hard_negatives
from llamarec.retriever.serving import load_retriever
from llamarec.retriever.state import load_state
from llamarec.retriever.train import _train
from llamarec.vocabulary import Experiment
from tests.samples import make_data

CONFIG = RetrieverConfig(
    hidden_size=16, batch_size=8, num_epochs=2, max_length=10, top_k=6, hard_negative_folds=1, products="float32"
)
FILES = ("retriever.safetensors", "experts.json", "candidates.parquet", "hard_negatives.parquet", "metrics.json")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return make_data()


@pytest.fixture(scope="module")
def two(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Roots of two finished retrievers, by seed."""
    roots = {seed: tmp_path_factory.mktemp(f"seed{seed}") for seed in (1, 2)}
    for seed, root in roots.items():
        _train(data, Experiment(root, "made-up"), replace(CONFIG, seed=seed), QUIET)
    return roots


@pytest.fixture
def experiment(two: dict[int, Path], tmp_path: Path) -> Experiment:
    """A copy of the first one."""
    shutil.copytree(two[1], tmp_path / "e")
    return Experiment(tmp_path / "e", "made-up")


def _read_all(experiment: Experiment, data: PreparedData) -> dict[str, object]:
    """What every reader makes of the files."""
    data = replace(data, dataset_code="made-up")
    return {
        "candidates": {name: one.scores.tolist() for name, one in load_candidates(experiment, data).items()},
        "lists": load_hard_negatives(experiment, data, 5).items_PK.tolist(),
        "retriever": load_retriever(experiment, data).digest,
    }


def _content(experiment: Experiment) -> dict[str, str]:
    return {name: hashlib.sha256((experiment.retriever / name).read_bytes()).hexdigest() for name in FILES}


# ---- F19: a kill ----


def _publish_other(experiment: Experiment, other: Path) -> None:
    source = Experiment(other, "made-up").retriever
    with published.locked(experiment):
        published.publish(experiment, {name: (source / name).read_bytes() for name in FILES}, {})


def _killed_at(experiment: Experiment, other: Path, count: int) -> bool:
    """Publishes the other retriever in a process that dies before its effect number `count`; whether it died."""
    child = multiprocessing.get_context("fork").Process(target=_die_at, args=(experiment, other, count))
    child.start()
    child.join()
    return child.exitcode == 9


def _die_at(experiment: Experiment, other: Path, count: int) -> None:
    seen = 0

    def observe(effect: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            os._exit(9)

    durable.observer = observe
    _publish_other(experiment, other)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_effect_leaves_one_retriever_or_the_other(
    data: PreparedData, two: dict[int, Path], tmp_path: Path
) -> None:
    wanted = {seed: _read_all(Experiment(root, "made-up"), data) for seed, root in two.items()}
    assert wanted[1] != wanted[2]

    found = []
    for count in range(1, 200):
        experiment = Experiment(tmp_path / str(count), "made-up")
        shutil.copytree(two[1], experiment.root)
        died = _killed_at(experiment, two[2], count)
        # The first reader comes at once; nobody has repeated the command.
        seen = _read_all(experiment, data)
        assert seen in wanted.values(), f"a mixture after a kill at effect {count}"
        found.append(1 if seen == wanted[1] else 2)

        _publish_other(experiment, two[2])
        assert _read_all(experiment, data) == wanted[2]
        assert not [path.name for path in experiment.retriever.iterdir() if path.name == ".publishing"]
        shutil.rmtree(experiment.root)
        if not died:
            break

    assert sorted(found) == found, "the old one, then the new one"
    assert {*found} == {1, 2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_first_publication_that_is_killed_leaves_none_or_all(
    data: PreparedData, two: dict[int, Path], tmp_path: Path
) -> None:
    wanted = _read_all(Experiment(two[2], "made-up"), data)
    for count in range(1, 200):
        experiment = Experiment(tmp_path / str(count), "made-up")
        died = _killed_at(experiment, two[2], count)
        try:
            assert _read_all(experiment, data) == wanted
        except ArtifactError as error:
            assert "no trained retriever" in str(error)  # noqa: PT017
        if not died:
            break
    assert _read_all(experiment, data) == wanted


def test_lists_of_another_retriever_are_refused(
    experiment: Experiment, data: PreparedData, two: dict[int, Path]
) -> None:
    other = Experiment(two[2], "made-up").retriever
    (experiment.retriever / "manifest.json").unlink()
    metrics = experiment.retriever_metrics
    content = json.loads(metrics.read_text(encoding="utf-8"))
    del content["retriever_digest"]
    metrics.write_text(json.dumps(content), encoding="utf-8")
    for name, reader in (("candidates.parquet", "candidates"), ("hard_negatives.parquet", "lists")):
        shutil.copy2(other / name, experiment.retriever / name)
        with pytest.raises(ArtifactError, match=rf"(?s){name}: these lists were made by another retriever"):
            _readers(experiment, data)[reader]()


# ---- F20: bits that flip ----


def _readers(experiment: Experiment, data: PreparedData) -> dict[str, Callable[[], object]]:
    data = replace(data, dataset_code="made-up")
    return {
        "candidates": lambda: load_candidates(experiment, data),
        "lists": lambda: load_hard_negatives(experiment, data, 5),
        "retriever": lambda: load_retriever(experiment, data),
        "metrics": lambda: published.read_metrics(experiment, "type this"),
        "all": lambda: published.check_published(experiment, "type this"),
    }


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "gone", "longer"])
@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("candidates.parquet", "candidates"),
        ("hard_negatives.parquet", "lists"),
        ("retriever.safetensors", "retriever"),
        ("metrics.json", "metrics"),
        ("metrics.json", "retriever"),
        ("manifest.json", "all"),
        ("manifest.json", "candidates"),
        # The ranker reads no weights, but is trained on what they made.
        ("retriever.safetensors", "candidates"),
        ("hard_negatives.parquet", "candidates"),
    ],
)
def test_what_has_changed_is_refused_by_name_with_what_to_type(
    name: str, reader: str, how: str, experiment: Experiment, data: PreparedData
) -> None:
    path = experiment.retriever / name
    raw = path.read_bytes()
    rng = random.Random(name + how)
    if (name, reader, how) == ("hard_negatives.parquet", "candidates", "gone"):
        pytest.skip("only training needs them: test_figures.py")
    for _ in range(20 if how == "flip" else 1):
        position = rng.randrange(len(raw))
        flipped = bytes([raw[position] ^ (1 << rng.randrange(8))])
        contents = {
            "flip": raw[:position] + flipped + raw[position + 1 :],
            "cut": raw[: len(raw) // 2],
            "empty": b"",
            "longer": raw + (b"}" if name.endswith("json") else b"x"),
        }
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(contents[how])
        if how == "flip" and name == "manifest.json" and json_equal(contents[how], raw):
            continue

        with pytest.raises(ArtifactError, match=rf"(?s){name}.*next: "):
            _readers(experiment, data)[reader]()


def json_equal(one: bytes, other: bytes) -> bool:
    """Whether two texts are the same JSON: white space may flip."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_a_state_that_has_changed_is_refused(experiment: Experiment) -> None:
    path = experiment.retriever / "training_state.pt"
    raw, rng = path.read_bytes(), random.Random(1)
    assert load_state(experiment.retriever) is not None
    for position in [*(rng.randrange(len(raw)) for _ in range(60)), *range(len(raw) - 100, len(raw))]:
        path.write_bytes(raw[:position] + bytes([raw[position] ^ (1 << rng.randrange(8))]) + raw[position + 1 :])
        with pytest.raises(ArtifactError, match=r"(?s)training_state\.pt.*--restart"):
            load_state(experiment.retriever)


def test_the_advice_makes_the_same_files_again(experiment: Experiment, data: PreparedData) -> None:
    before = _content(experiment)
    for name in FILES:
        (experiment.retriever / name).write_bytes(b"damaged")
    _train(data, experiment, replace(CONFIG, seed=1), QUIET)
    assert _content(experiment) == before


# ---- Folders of earlier versions ----


def test_a_folder_of_an_earlier_version_is_read_and_said_to_be_unverified(
    experiment: Experiment, data: PreparedData, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = _read_all(experiment, data)
    (experiment.retriever / "manifest.json").unlink()
    state = experiment.retriever / "training_state.pt"
    state.write_bytes(state.read_bytes()[: -len(b"\nllamarec sha256 ") - 64])
    metrics = experiment.retriever_metrics
    content = json.loads(metrics.read_text(encoding="utf-8"))
    del content["retriever_digest"]
    metrics.write_text(json.dumps(content), encoding="utf-8")

    assert _read_all(experiment, data) == wanted
    assert load_state(experiment.retriever) is not None
    lines = [one.getMessage() for one in caplog.records]
    assert len([line for line in lines if "without hashes; its files are not verified" in line]) == 1
    assert len([line for line in lines if "training_state.pt" in line]) == 1


# ---- F21: two at once ----


def test_a_second_training_in_the_folder_is_refused(experiment: Experiment, data: PreparedData) -> None:
    before = _content(experiment)
    with (
        published.locked(experiment),
        pytest.raises(LockedError, match=rf"(?s)another run is training in .*process {os.getpid()}"),
    ):
        _train(data, experiment, replace(CONFIG, seed=3, restart=True), QUIET)
    assert _content(experiment) == before
    _train(data, experiment, replace(CONFIG, seed=3, restart=True), QUIET)
    assert _content(experiment) != before


def test_a_reader_during_the_last_moves_is_told_who_is_at_it(
    experiment: Experiment, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FileSet(experiment.retriever)
    said: list[LlamarecError] = []

    def read(effect: str, path: Path) -> None:
        if effect == "rename" and files.is_unfinished:
            durable.observer = None
            with pytest.raises(LockedError) as error:
                load_candidates(experiment, replace(data, dataset_code="made-up"))
            said.append(error.value)

    monkeypatch.setattr(durable, "observer", read)
    with published.locked(experiment):
        files.publish(lambda staging: staging.write("candidates.parquet", b"new"), {})
    assert said


def test_a_stopped_training_leaves_no_names_of_its_own(data: PreparedData, tmp_path: Path) -> None:
    trainer = RetrieverTrainer(data, CONFIG, tmp_path, QUIET)
    trainer.fit()
    assert [path.name for path in tmp_path.iterdir()] == ["training_state.pt"]
