"""A training that is killed, whose disk is lost, and that goes on from its mirror: the same bits."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from llamarec.checkpoints.backup.stores import UnreachableError
from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.mirror import keeper
from llamarec.checkpoints.mirror.pauses import Pauses
from llamarec.checkpoints.trainer.signals import Interrupted
from llamarec.errors import CheckpointError, ConfigError
from tests.checkpoints.mirror.bucket import BucketFileSystem, register, use_empty
from tests.resume.forks import CAN_FORK, WHY_NOT, Forks
from tests.resume.runs import At
from tests.resume.training import make_trainer, outcome

ADDRESS = "bucket://host/run"
CONFIG = CheckpointConfig(mirror=ADDRESS)


@pytest.fixture(autouse=True)
def _bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_empty(tmp_path, monkeypatch)
    monkeypatch.setattr(keeper, "Pauses", lambda: Pauses(first=0.01, last_tries=2))


def _trainer(folder: Path, config: CheckpointConfig = CONFIG, **changes: Any) -> Any:
    return make_trainer(folder, config, **{"max_steps": 8, "save_total_limit": 2, **changes})


def train_until_killed(folder: str, at: int) -> None:
    """In a child: it is killed at a request to the mirror."""
    import os
    import signal

    register()
    os.environ["BUCKET_ROOT"] = str(Path(folder) / "objects")
    count = 0

    def strike(what: str, key: str) -> None:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    BucketFileSystem.observer = strike
    _trainer(Path(folder) / "run").train("latest")


@pytest.mark.slow
@pytest.mark.skipif(not CAN_FORK, reason=WHY_NOT)
def test_killed_in_copies_and_resumed_on_an_empty_disk_the_model_is_the_same(tmp_path: Path) -> None:
    whole = _trainer(tmp_path / "whole", CheckpointConfig())
    whole.train()
    expected = outcome(tmp_path / "whole")

    with Forks() as server:
        # In the first copy, in the second one, and in a later one: each time the disk is lost too.
        for at in (25, 45, 60):
            ending = server.run("tests.resume.test_mirror:train_until_killed", folder=str(tmp_path), at=at)
            assert ending.was_killed or ending.status == 0, ending.log
            shutil.rmtree(tmp_path / "run")

    resumed = _trainer(tmp_path / "run")
    resumed.train("latest")
    assert not resumed.last_save_failed
    found = outcome(tmp_path / "run")
    assert {**found, "checkpoints": []} == {**expected, "checkpoints": []}
    names = {path.name for path in (tmp_path / "objects" / "run").iterdir()}
    assert set(expected["checkpoints"]) <= names


@pytest.mark.slow
def test_a_store_that_hangs_blocks_no_step_and_the_end_says_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "Pauses", lambda: Pauses(first=0.01, last_tries=2, silence=0.5))
    hung, ended = threading.Event(), threading.Event()

    def hang(what: str, key: str) -> None:
        if what == "put":
            hung.set()
            ended.wait(300)

    BucketFileSystem.observer = hang
    trainer = _trainer(tmp_path / "run")
    trainer.train()
    assert hung.is_set()
    assert trainer.state.global_step == 8
    assert trainer.last_save_failed
    # The first one, which never comes to its end, and what was published after it.
    assert "is behind: it lacks checkpoint-" in capfd.readouterr().err
    ended.set()
    # It would go on in the folder of the next test.
    for thread in threading.enumerate():
        if thread.name == "checkpoint-mirror":
            thread.join(60)


@pytest.mark.slow
def test_a_stop_waits_for_the_mirror_and_its_code_says_how_that_ended(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run", callbacks=(At(4),))
    with pytest.raises(Interrupted) as stop:
        trainer.train()
    assert stop.value.code == 75
    assert (tmp_path / "objects" / "run" / "checkpoint-4" / "manifest.json").is_file()

    def refuse(what: str, key: str) -> None:
        raise OSError("503 Slow Down")

    BucketFileSystem.observer = refuse
    again = _trainer(tmp_path / "run", callbacks=(At(6),))
    with pytest.raises(Interrupted) as stop:
        again.train("latest")
    assert stop.value.code == 74


@pytest.mark.slow
def test_what_a_start_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _trainer(tmp_path / "run", max_steps=3).train()

    # At step 0 beside an earlier run, unless it is given up.
    with pytest.raises(CheckpointError, match=r"the mirror .* holds the checkpoints of an earlier run"):
        _trainer(tmp_path / "other").train()
    with pytest.raises(ConfigError, match=r"is the folder in which this run trains"):
        _trainer(tmp_path / "run", CheckpointConfig(mirror=str(tmp_path / "run"))).train("latest")

    def refuse(what: str, key: str) -> None:
        raise OSError("503 Slow Down")

    BucketFileSystem.observer = refuse
    monkeypatch.setattr("llamarec.checkpoints.mirror.pauses.time.sleep", lambda _: None)
    with pytest.raises(UnreachableError, match=r"cannot be reached, and .* has no checkpoint to resume"):
        _trainer(tmp_path / "empty").train("latest")

    BucketFileSystem.observer = None
    restarted = _trainer(tmp_path / "again", CheckpointConfig(mirror=ADDRESS, restart=True), max_steps=3)
    restarted.train()
    assert not restarted.last_save_failed
    # What was given up does not come back on an empty disk.
    last = _trainer(tmp_path / "last", max_steps=6)
    last.train("latest")
    assert last.run_id == restarted.run_id
