"""Valid JSON of another shape: an error of that file, never a traceback, and never an obstacle to other files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llamarec.checkpoints.backup.contents import claim
from llamarec.checkpoints.resume.progress import Progress, progress_in
from llamarec.checkpoints.resume.trainer_state import read_trainer_state, stopped_early
from llamarec.checkpoints.storage.best_model import read_best
from llamarec.checkpoints.storage.discovery import inspect, latest, order_of_saves, saved_checkpoint
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import describe_holder
from llamarec.checkpoints.storage.manifest import _checksum, read_manifest
from llamarec.checkpoints.storage.restart import is_superseded
from llamarec.checkpoints.storage.summary import gather, save_limit, summary_of
from llamarec.checkpoints.storage.verification import was_ours
from llamarec.data.inputs import _read_cache
from llamarec.data.prepared import load_prepared
from llamarec.errors import ArtifactError, CheckpointError, ConfigError, LlamarecError
from llamarec.evaluation.fusion import Fusion, read_fusion
from llamarec.experts.weights import ExpertEvidence, ExpertWeights
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.template import PromptTemplate, load_template
from llamarec.ranker.trained.final_experts import read_final_experts
from llamarec.ranker.trained.final_fusion import read_final
from llamarec.ranker.trained.locations import experiment_at, find_experiment
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.rebuild_command import trained_config
from llamarec.vocabulary import Experiment
from tests.checkpoints.factory import make_plain_run, make_run, manifest

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
FUSION = Fusion(1.0, 0.5, 2.0, (-1.0, -2.0))
EXPERTS = ExpertWeights((ExpertEvidence("lrurec", 1.0, 0.1, 0.01),), 30, 40)
OTHER_VALUES = ["12", 12, -1, 1.5, True, None, [1], {"x": 1}, 10**400, "", float("nan"), float("inf")]
NOT_JSON = ["", "[" * 200_000, '{"a":' * 200_000, '{"step": "\\ud800"}', "1" * 5000, "[]", '"x"', "12", "null", "\x00"]


def _manifest() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(manifest(200, 1, CREATED, best=200).to_bytes())
    content["files"] = {"adapter_model.bin": {"num_bytes": 3, "sha256": "0"}}
    return content


def _state() -> dict[str, Any]:
    early = {"args": {"early_stopping_patience": 3}, "attributes": {"early_stopping_patience_counter": 1}}
    return {
        "global_step": 200,
        "max_steps": 1000,
        "epoch": 1.0,
        "num_train_epochs": 5,
        "train_batch_size": 8,
        "best_global_step": 100,
        "best_metric": 0.5,
        "best_model_checkpoint": "checkpoint-100",
        "log_history": [{"step": 1, "loss": 2.0}],
        "stateful_callbacks": {
            "ResumableTrainer": {"args": {}, "attributes": {**Progress(step=200).as_dict(), "schedule": _SCHEDULE}},
            "TrainerControl": {"args": {"should_training_stop": True}, "attributes": {}},
            "EarlyStoppingCallback": early,
        },
    }


_SCHEDULE = {"total": 10, "end": 10, "knots": [[0.0, 0.0], [1.0, 2.0]]}
RANKER = {
    "config": asdict(RankerConfig()),
    "dataset_code": "ml-100k",
    "prepared_data": "x/data/ml-100k/m",
    "run_id": "a",
}
RETRIEVER = {"config": asdict(RetrieverConfig()), "data_fingerprint": "a", "num_epochs": 3, "seconds": 1.0}
PREPARED = {
    "format_version": 1,
    "dataset_code": "ml-100k",
    "fingerprint": "a",
    "has_repeats": False,
    "num_interactions": 3,
    "options": {"split": "temporal", "min_user_interactions": 5},
    "inputs": {"ratings.csv": {"bytes": 1, "sha256": "a"}},
    "outputs": {"histories.parquet": {"bytes": 1, "sha256": "a"}},
}


def _read_state(path: Path) -> None:
    content = read_trainer_state(path.parent)
    progress_in(content)
    stopped_early(content)


def _list_plain(path: Path) -> None:
    verdict = next(one for one in inspect(RunFolder(path.parent.parent)) if one.path == path.parent)
    summary_of(verdict, deep=False)
    saved_checkpoint(verdict)
    was_ours(path)


def _locate(path: Path) -> None:
    experiment_at(path.parent)
    find_experiment(path.parent, path.parent)


# File, its content, what reads it.
FILES: dict[str, tuple[str, dict[str, Any], Callable[[Path], object]]] = {
    "manifest": ("manifest.json", _manifest(), lambda path: read_manifest(path.parent)),
    "best": ("best.json", _manifest(), lambda path: read_best(path.parent)),
    "claim": ("manifest.json", _manifest(), lambda path: claim(path.read_bytes())),
    "state": ("trainer_state.json", _state(), _read_state),
    "listed": ("checkpoint-5/trainer_state.json", _state(), _list_plain),
    "restarted": (
        "restarted.json",
        {"before_restart": {"checkpoint-5": 3}},
        lambda path: is_superseded(RunFolder(path.parent), [5]),
    ),
    "holder": (
        ".run.json",
        {"pid": 1, "host": "a", "started": "2026-01-01"},
        lambda path: describe_holder(RunFolder(path.parent)),
    ),
    "fusion": ("fusion.json", json.loads(FUSION.as_bytes()), lambda path: read_fusion(path.parent)),
    "final": (
        "final_fusion.json",
        {"adapter_sha256": "a", **asdict(FUSION)},
        lambda path: read_final(path.parent, "a"),
    ),
    "final experts": (
        "final_experts.json",
        {"adapter_sha256": "a", "retriever_digest": "b", **asdict(EXPERTS)},
        lambda path: read_final_experts(path.parent, adapter_digest="a", retriever_digest="b", hint=""),
    ),
    "ranker": ("ranker.json", RANKER, _locate),
    "retriever": (
        "lru/ml-100k/metrics.json",
        RETRIEVER,
        lambda path: trained_config(Experiment(path.parent.parent.parent, "ml-100k")),
    ),
    "prepared": ("manifest.json", PREPARED, lambda path: load_prepared(path.parent)),
    "hashes": ("hashes.json", {}, lambda path: _read_cache(path.parent)),
    "prompt": ("prompt.json", PromptTemplate().as_dict(), lambda path: load_template(str(path))),
}


def _variants(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The content with every single value, at any depth, left out or replaced by each of the others."""
    for path in _paths(content, ()):
        for other in [*OTHER_VALUES, KeyError]:
            changed = copy.deepcopy(content)
            holder: Any = changed
            for key in path[:-1]:
                holder = holder[key]
            if other is KeyError:
                del holder[path[-1]]
            else:
                holder[path[-1]] = other
            yield changed


def _paths(content: Any, above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from _paths(value, (*above, key))


def _written(name: str, content: dict[str, Any]) -> str:
    """As text; a manifest with the checksum of what it says."""
    if name in ("manifest", "best"):
        content = {key: value for key, value in content.items() if key != "checksum"}
        content["checksum"] = _checksum(content)
    return json.dumps(content)


def _read(name: str, text: str, folder: Path) -> None:
    """Reads such a file; its reader takes it, or says what is wrong."""
    file, _, read = FILES[name]
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    try:
        read(path)
    except LlamarecError as error:
        str(error).encode()


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_type_is_an_error_of_the_file(name: str, tmp_path: Path) -> None:
    content = FILES[name][1]
    _read(name, _written(name, content), tmp_path)
    for changed in _variants(content):
        _read(name, _written(name, changed), tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_no_json_is_an_error_of_the_file(name: str, text: str, tmp_path: Path) -> None:
    _read(name, text, tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "kind", "said"),
    [
        ("manifest", {"step": "12"}, CheckpointError, "step: expected int, found str"),
        ("manifest", {"step": 10**30}, CheckpointError, "step: expected int"),
        ("manifest", {"metrics": {"best_step": "12"}}, CheckpointError, "metrics.best_step: expected int | null"),
        ("manifest", {"files": {"x": {"num_bytes": "3", "sha256": ""}}}, CheckpointError, "files[...].num_bytes: expe"),
        ("state", {"global_step": "200"}, CheckpointError, "global_step: expected int, found str"),
        ("state", {"stateful_callbacks": []}, CheckpointError, "stateful_callbacks: expected object"),
        ("restarted", {"before_restart": {"checkpoint-5": "3"}}, CheckpointError, "before_restart[...]: expected int"),
        ("fusion", {"letter_prior": 3}, ArtifactError, "letter_prior: expected array, found int"),
        ("ranker", {"config": []}, ArtifactError, "config: expected object, found array"),
        ("prompt", {"text": 5}, ConfigError, "text: expected str, found int"),
    ],
)
def test_the_error_names_file_and_field(
    name: str, changes: dict[str, Any], kind: type[LlamarecError], said: str, tmp_path: Path
) -> None:
    file, content, read = FILES[name]
    (tmp_path / file).write_text(_written(name, {**content, **changes}), encoding="utf-8")
    with pytest.raises(kind) as caught:
        read(tmp_path / file)
    assert said in str(caught.value)
    assert Path(file).name in str(caught.value)


@pytest.mark.parametrize("field", [{"step": "300"}, {"files": []}, {"sessions": [1]}, {"metrics": {"best_step": []}}])
def test_one_bad_manifest_does_not_hide_the_others(field: dict[str, Any], tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = run.checkpoint(300) / "manifest.json"
    path.write_text(_written("manifest", {**json.loads(path.read_bytes()), **field}), encoding="utf-8")

    choice = latest(run)

    assert choice is not None
    assert choice.verdict.path == run.checkpoint(200)
    assert [one.path for one in choice.passed_over] == [run.checkpoint(300)]
    assert len(order_of_saves(run)) == 3
    assert [one.verified for one in gather(run, deep=False)] == ["sizes", "sizes", "NO"]
    save_limit(gather(run, deep=False))


def test_one_bad_trainer_state_does_not_hide_the_others(tmp_path: Path) -> None:
    run = make_plain_run(tmp_path)
    (run.checkpoint(300) / "trainer_state.json").write_text("[" * 200_000, encoding="utf-8")

    choice = latest(run)

    assert choice is not None
    assert choice.verdict.path == run.checkpoint(200)
    assert len(gather(run, deep=False)) == 3
