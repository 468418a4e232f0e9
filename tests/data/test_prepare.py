"""Prepared sets: reproducible to the byte, reused only where they fit, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llamarec.data.config import DataConfig
from llamarec.data.inputs import changed_inputs
from llamarec.data.prepare import prepare, resolve_options
from llamarec.data.prepared import load_prepared
from llamarec.errors import ArtifactError, ConfigError
from tests.data.raw import WRITERS


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    folder = tmp_path / "raw" / "beauty"
    folder.mkdir(parents=True)
    WRITERS["beauty"](folder)
    return DataConfig("beauty", str(tmp_path / "raw"), str(tmp_path / "experiments"))


def _hashes(folder: Path) -> dict[str, str]:
    files = ("histories.parquet", "items.parquet", "manifest.json")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


def test_equal_bytes_in_two_processes_with_other_hash_seeds(config: DataConfig, tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        root = tmp_path / seed
        command = [
            "prepare",
            "--dataset_code",
            "beauty",
            "--data_root",
            config.data_root,
            "--experiment_root",
            str(root),
        ]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(
            [sys.executable, "-m", "llamarec.cli.main", *command], env=environment, check=True, capture_output=True
        )
        found.append(_hashes(root / "data" / "beauty"))
    assert found[0] == found[1]


def test_the_manifest_says_what_it_was_made_from(config: DataConfig) -> None:
    manifest = prepare(config).manifest
    assert (manifest["num_users"], manifest["num_items"], manifest["num_interactions"]) == (6, 6, 36)
    raw = Path(config.data_root) / "beauty" / "ratings_Beauty.csv"
    assert manifest["inputs"]["ratings_Beauty.csv"] == {
        "bytes": raw.stat().st_size,
        "sha256": hashlib.sha256(raw.read_bytes()).hexdigest(),
    }
    assert manifest["options"]["min_user_interactions"] == 5
    assert str(config.data_root) not in json.dumps(manifest), "a path of this machine would make it another artifact"


def test_a_prepared_set_that_fits_is_taken(config: DataConfig, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(config)
    before = (config.experiment.data / "histories.parquet").stat().st_mtime_ns
    prepare(config)
    assert "is already prepared" in capsys.readouterr().out
    assert (config.experiment.data / "histories.parquet").stat().st_mtime_ns == before


def test_other_options_or_other_raw_files_make_it_anew(config: DataConfig) -> None:
    first = prepare(config)
    assert prepare(replace(config, split="temporal", temporal_validation_share=0.5)).fingerprint != first.fingerprint
    prepare(config)
    path = Path(config.data_root) / "beauty" / "ratings_Beauty.csv"
    path.write_text(path.read_text().replace("U6,", "U7,"))
    assert prepare(config).users[-1] == "U7"


def _trained(config: DataConfig) -> None:
    config.experiment.retriever.mkdir(parents=True)
    (config.experiment.retriever / "training_state.pt").write_bytes(b"hours of work")


def test_options_that_are_not_given_stay_as_they_were_prepared(config: DataConfig) -> None:
    prepare(replace(config, min_user_interactions=3, on_bad_line="skip"))
    later = resolve_options(config, {"dataset_code", "on_bad_line"})
    assert (later.min_user_interactions, later.on_bad_line) == (3, "stop")
    assert (later.data_root, later.experiment_root) == (config.data_root, config.experiment_root)
    assert resolve_options(replace(config, experiment_root="elsewhere"), set()).min_user_interactions == 5


def test_data_that_something_was_trained_on_are_not_replaced_in_silence(config: DataConfig) -> None:
    first = prepare(config)
    _trained(config)
    before = _hashes(config.experiment.data)
    with pytest.raises(ArtifactError) as refused:
        prepare(replace(config, min_item_interactions=2))
    text = str(refused.value)
    assert "--min_item_interactions 2 (prepared with 5)" in text
    assert "--min_item_interactions 2 --prepare_again" in text
    assert "another --experiment_root" in text
    assert _hashes(config.experiment.data) == before
    assert prepare(config).fingerprint == first.fingerprint
    replaced = prepare(replace(config, min_item_interactions=2), again=True)
    assert replaced.manifest["options"]["min_item_interactions"] == 2
    # What is not named stays as prepared, so the way back must name the default.
    with pytest.raises(ArtifactError, match=r"--min_item_interactions 5 --prepare_again"):
        prepare(config)


def test_a_changed_raw_file_replaces_nothing_that_something_was_trained_on(config: DataConfig) -> None:
    first = prepare(config)
    _trained(config)
    path = Path(config.data_root) / "beauty" / "ratings_Beauty.csv"
    path.write_text(path.read_text() + "\n")
    assert prepare(config).fingerprint == first.fingerprint, "other bytes, the same data"
    path.write_text(path.read_text().replace("U6,", "U7,"))
    with pytest.raises(
        ArtifactError, match=r"(?s)prepared from \(36 interactions\).*changed: ratings_Beauty.csv"
    ) as refused:
        prepare(config)
    assert "--data_root" in str(refused.value)
    assert [path.name for path in config.experiment.data.parent.iterdir()] == ["beauty"], "nothing half-made is left"
    assert prepare(replace(config, data_root="nowhere")).fingerprint == first.fingerprint
    assert prepare(config, again=True).users[-1] == "U7"


def test_raw_files_that_changed_since_are_named(config: DataConfig) -> None:
    folder = prepare(config).folder
    path = Path(config.data_root) / "beauty" / "ratings_Beauty.csv"
    assert changed_inputs(folder) == []
    path.touch()
    assert changed_inputs(folder) == [], "another time, the same content"
    content = path.read_text()
    path.write_text(content.replace("U6,", "U7,"))
    assert changed_inputs(folder) == [str(path.resolve())]
    _trained(config)
    with pytest.raises(ArtifactError):
        prepare(config)
    assert changed_inputs(folder) == [str(path.resolve())], "a refusal changes nothing"
    path.unlink()
    assert changed_inputs(folder) == []
    assert changed_inputs(folder.parent / "nowhere") == []


def test_what_is_left_out_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"u{u},i{i},{i},Thing {i}" for u in range(6) for i in range(6)] + ["u9,i1,7,Thing 1", "u1,i9,8,"]
    table = tmp_path / "shop.csv"
    table.write_text("\n".join(["user,item,timestamp,title", *rows]) + "\n", encoding="utf-8")
    data = prepare(DataConfig(str(table), experiment_root=str(tmp_path / "experiments")))
    assert data.manifest["raw"] == {
        "users": 7,
        "items": 7,
        "interactions": 38,
        "exact_copies": 0,
        "interactions_without_title": 1,
    }
    said = capsys.readouterr().out
    assert "1 interactions with items that have no title" in said
    assert "1 interactions of users with fewer than 5 or items with fewer than 5" in said
    assert "raw files    7 users, 7 items, 38 interactions" in said


def test_a_prepared_set_serves_where_the_raw_files_are_gone(config: DataConfig) -> None:
    first = prepare(config)
    assert prepare(replace(config, data_root="nowhere")).fingerprint == first.fingerprint


def test_a_damaged_artifact_is_named_and_made_anew(config: DataConfig) -> None:
    first = prepare(config)
    path = config.experiment.data / "items.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"items\.parquet"):
        load_prepared(config.experiment.data)
    assert prepare(config).fingerprint == first.fingerprint


def test_an_absent_set_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="llamarec prepare --dataset_code beauty"):
        load_prepared(tmp_path / "beauty")


def test_an_unknown_data_set_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)one of beauty.*--dataset_code beauty"):
        prepare(DataConfig("beuaty", experiment_root=str(tmp_path)))
    with pytest.raises(ConfigError, match="--dataset_code is missing"):
        prepare(DataConfig(experiment_root=str(tmp_path)))


def test_options_that_do_not_fit_are_all_named() -> None:
    with pytest.raises(ConfigError, match=r"(?s)--min_user_interactions 0.*--split 'weekly'.*--on_bad_line 'ignore'"):
        DataConfig("beauty", min_user_interactions=0, split="weekly", on_bad_line="ignore")


def test_sequences_have_no_label_without_a_history(config: DataConfig) -> None:
    sequences = prepare(config).sequences
    assert sequences.users_with_label("test").tolist() == list(range(6))
    empty = replace(sequences, train_ends=np.zeros(6, dtype=np.int32))
    assert empty.users_with_label("validation").size == 0
    assert empty.label(0, "validation") == 0
