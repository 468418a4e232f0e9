"""A restart in a folder that holds a run: that run is no longer meant by `latest`, also before the first new save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.storage.discovery import latest, of_this_run
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.trainer.signals import EndNow
from llamarec.cli.main import main as command
from llamarec.errors import CheckpointError
from tests.resume.runs import At, quiet_trainer, stopped
from tests.resume.training import state_of

SMALL: dict[str, Any] = {"num_samples": 12, "noisy": False, "save_steps": 100}
RESTART = CheckpointConfig(restart=True)


def _cut() -> None:
    """As the third request to stop: nothing is saved after it."""
    raise EndNow


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A run with checkpoint-2, started anew, and ended by force before its first save."""
    stopped(quiet_trainer(tmp_path, **SMALL), 2)
    again = quiet_trainer(tmp_path, RESTART, callbacks=(At(1, "on_step_end", _cut),), **SMALL)
    with pytest.raises(EndNow):
        again.train()
    return tmp_path


def test_a_restart_that_is_killed_before_its_first_save_starts_anew(
    cut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = quiet_trainer(cut, **SMALL)
    trainer.train("latest")
    assert "belong to the run before --restart (name a path to resume one); training starts at" in (
        capsys.readouterr().out
    )
    quiet_trainer(tmp_path / "whole", **SMALL).train()
    assert state_of(cut / "checkpoint-6") == state_of(tmp_path / "whole/checkpoint-6")
    assert [path.name for path in of_this_run(RunFolder(cut))] == ["checkpoint-6"]


def test_a_path_takes_the_run_before_up_again(cut: Path) -> None:
    resumed = quiet_trainer(cut, callbacks=(At(3, "on_step_end", _cut),), **SMALL)
    with pytest.raises(EndNow):
        resumed.train(str(cut / "checkpoint-2"))
    # And it is the one that is meant from now on.
    choice = latest(RunFolder(cut))
    assert choice is not None
    assert choice.verdict.path.name == "checkpoint-2"


def test_a_refused_resume_of_the_run_before_leaves_the_restart_as_it_was(cut: Path) -> None:
    with pytest.raises(CheckpointError, match="belongs to a different run than this command"):
        quiet_trainer(cut, **{**SMALL, "seed": 7}).train(str(cut / "checkpoint-2"))
    assert latest(RunFolder(cut)) is None


def test_the_same_step_saved_anew_is_of_the_new_run(cut: Path) -> None:
    stopped(quiet_trainer(cut, **SMALL), 2)
    choice = latest(RunFolder(cut))
    assert choice is not None
    assert choice.verdict.path.name == "checkpoint-2"


def test_a_list_says_which_they_are(cut: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["checkpoints", "list", str(cut)]) == 0
    said = capsys.readouterr().out
    assert "R: from before a --restart" in said
    assert command(["checkpoints", "list", str(cut), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["runs"][0]
    assert listed["latest_step"] is None
    assert [row["before_restart"] for row in listed["checkpoints"]] == [True]


def test_a_note_that_cannot_be_read_is_named(cut: Path) -> None:
    (cut / "restarted.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"(?s)restarted\.json cannot be read.*delete the file"):
        quiet_trainer(cut, **SMALL).train("latest")
