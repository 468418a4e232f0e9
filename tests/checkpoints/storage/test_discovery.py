"""Which checkpoint is meant, and what is said when there is none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from llamarec.checkpoints.storage.discovery import (
    best,
    best_in,
    choose_checkpoint,
    inspect,
    latest,
    nearest,
    next_sequence,
    order_of_saves,
    saved_checkpoint,
)
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.errors import CheckpointError
from tests.checkpoints.factory import damage, make_plain_run, make_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run", best_model=True)


def _step(choice: object) -> str:
    return choice.verdict.path.name  # type: ignore[attr-defined,no-any-return]


def test_latest(run: RunFolder) -> None:
    choice = latest(run)
    assert choice is not None
    assert (_step(choice), choice.passed_over, choice.why) == ("checkpoint-300", (), "latest")


def test_latest_is_by_save_not_by_step_or_time(tmp_path: Path) -> None:
    run = make_run(tmp_path, [300, 100, 200])
    os.utime(run.checkpoint(200), (0, 0))
    assert [path.name for path in order_of_saves(run)] == ["checkpoint-200", "checkpoint-100", "checkpoint-300"]
    assert _step(latest(run)) == "checkpoint-200"
    assert next_sequence(run) == 3


def test_what_is_passed_over_is_named(run: RunFolder) -> None:
    damage(run.checkpoint(300))
    (run.checkpoint(200) / "manifest.json").write_bytes(b"{")
    choice = latest(run)
    assert choice is not None
    assert _step(choice) == "checkpoint-100"
    assert [verdict.path.name for verdict in choice.passed_over] == ["checkpoint-300", "checkpoint-200"]
    assert "optimizer.pt has changed since the save" in choice.passed_over[0].reason
    assert "manifest.json: damaged" in choice.passed_over[1].reason


@pytest.mark.parametrize("name", ["checkpoint-400", "checkpoint-999999", "checkpoint-0400"])
def test_an_empty_newer_folder_is_passed_over(run: RunFolder, name: str) -> None:
    (run.path / name).mkdir()
    assert _step(latest(run)) == "checkpoint-300"


@pytest.mark.parametrize("name", ["checkpoint-x", "checkpoint-400.bak", "tmp-checkpoint-400", ".saving-checkpoint-400"])
def test_other_names_are_no_checkpoints(run: RunFolder, name: str) -> None:
    shutil.copytree(run.checkpoint(300), run.path / name)
    (run.path / "checkpoint-500").write_bytes(b"a file")
    assert [verdict.path.name for verdict in inspect(run)] == ["checkpoint-100", "checkpoint-200", "checkpoint-300"]


def test_none_verifies(run: RunFolder) -> None:
    for step in (100, 200, 300):
        damage(run.checkpoint(step))
    with pytest.raises(CheckpointError, match="none of the 3 checkpoints") as error:
        latest(run)
    assert all(f"checkpoint-{step} (step {step}, optimizer.pt" in str(error.value) for step in (100, 200, 300))
    assert "start over" in str(error.value)


def test_there_is_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not there"):
        assert latest(RunFolder(folder)) is None
        assert choose_checkpoint(RunFolder(folder), "latest") is None
        assert choose_checkpoint(RunFolder(folder), True) is None
        assert next_sequence(RunFolder(folder)) == 0


def test_best(run: RunFolder) -> None:
    assert _step(best(run)) == "checkpoint-200"
    assert _step(choose_checkpoint(run, "best")) == "checkpoint-200"
    found = best_in(run)
    assert found is not None
    assert found.step == 200


def test_best_is_damaged(run: RunFolder) -> None:
    damage(run.checkpoint(200))
    with pytest.raises(CheckpointError, match="checkpoint-200 cannot be resumed: it is damaged") as error:
        best(run)
    assert f"--resume_from_checkpoint {run.checkpoint(300)} (step 300, verified)" in str(error.value)


def test_best_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no best checkpoint is known"):
        best(make_run(tmp_path, best=None))


def test_a_damaged_best_manifest_is_none(run: RunFolder) -> None:
    (run.path / "best.json").write_bytes(b"{}")
    assert best_in(run) is None


def test_by_path(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _step(choose_checkpoint(RunFolder(tmp_path / "other"), run.checkpoint(100))) == "checkpoint-100"
    monkeypatch.chdir(run.path)
    assert _step(choose_checkpoint(run, "checkpoint-200")) == "checkpoint-200"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("checkpoint-250", "checkpoint-200"),
        ("checkpoint-50", "checkpoint-100"),
        ("checkpoint-9999", "checkpoint-300"),
        ("checkpiont-200", "checkpoint-200"),
        ("step300", "checkpoint-300"),
        ("final", "checkpoint-"),
    ],
)
def test_one_that_does_not_exist(run: RunFolder, wanted: str, found: str) -> None:
    with pytest.raises(CheckpointError, match=f"checkpoint not found: .*{wanted}") as error:
        choose_checkpoint(run, str(run.path / wanted))
    said = str(error.value)
    assert all(f"checkpoint-{step} (step {step}, verified)" in said for step in (100, 200, 300))
    assert f"--resume_from_checkpoint {run.path / found}" in said


def test_the_nearest_is_never_a_damaged_one(run: RunFolder) -> None:
    damage(run.checkpoint(200))
    verdict = nearest(inspect(run, deep=True), Path("checkpoint-201"))
    assert verdict is not None
    assert verdict.path.name == "checkpoint-100"
    assert nearest([], Path("checkpoint-1")) is None


def test_one_that_is_damaged(run: RunFolder) -> None:
    damage(run.checkpoint(300))
    with pytest.raises(CheckpointError) as error:
        choose_checkpoint(run, run.checkpoint(300), allow_partial=True)
    assert str(error.value).startswith(f"{run.checkpoint(300)} cannot be resumed: it is damaged")
    assert f"--resume_from_checkpoint {run.checkpoint(200)} (step 200, verified)" in str(error.value)


def test_parts_are_missing(tmp_path: Path) -> None:
    run = make_plain_run(tmp_path / "run")
    (run.checkpoint(300) / "optimizer.pt").unlink()
    assert _step(latest(run)) == "checkpoint-200"
    with pytest.raises(CheckpointError, match=r"--allow_partial_resume to continue without: optimizer\.pt"):
        choose_checkpoint(run, run.checkpoint(300))
    choice = choose_checkpoint(run, run.checkpoint(300), allow_partial=True)
    assert choice is not None
    assert choice.verdict.missing == ("optimizer.pt",)


def test_a_plain_trainers_between_ours(tmp_path: Path) -> None:
    """It has no number of a save, and is taken for newer than all that have a lower step."""
    run = make_plain_run(tmp_path, [100, 200], best=100)
    assert _step(latest(run)) == "checkpoint-200"
    assert saved_checkpoint(inspect(run)[1]).best_step == 100
    ours = make_run(tmp_path / "ours", [150, 250])
    shutil.copytree(ours.checkpoint(150), run.checkpoint(150))
    assert [path.name for path in order_of_saves(run)] == ["checkpoint-200", "checkpoint-150", "checkpoint-100"]
    shutil.copytree(ours.checkpoint(250), run.checkpoint(250))
    assert _step(latest(run)) == "checkpoint-250"


def test_a_folder_that_is_called_best(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path)
    shutil.copytree(run.checkpoint(300), run.path / "best")
    assert _step(choose_checkpoint(run, "best")) == "best"


@pytest.mark.parametrize("wanted", ["", " "])
def test_an_empty_value_is_not_the_working_folder(run: RunFolder, wanted: str) -> None:
    with pytest.raises(CheckpointError, match=r"(?s)empty value.*--resume_from_checkpoint latest"):
        choose_checkpoint(run, wanted)
