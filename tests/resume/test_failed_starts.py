"""A run that fails at the same step again and again: after some starts the next is refused, with what to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.storage.failed_starts import failed_starts
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.trainer.signals import Interrupted
from llamarec.errors import CheckpointError, ConfigError
from tests.resume.runs import At, kill_self, quiet_trainer

SMALL: dict[str, Any] = {"num_samples": 16, "save_steps": 2}


def _fail() -> None:
    raise ValueError("no such user: 7")


def _start(folder: Path, step: int | None = 4, most: int = 3, **changes: Any) -> Any:
    """A start that fails after a step, or none."""
    callbacks = () if step is None else (At(step, "on_step_begin", _fail),)
    trainer = quiet_trainer(
        folder, CheckpointConfig(max_failed_starts=most), callbacks=callbacks, **{**SMALL, **changes}
    )
    trainer.train(True)
    return trainer


def _fails(folder: Path, number: int, **changes: Any) -> None:
    for _ in range(number):
        with pytest.raises(ValueError, match="no such user"):
            _start(folder, **changes)


def test_a_run_that_fails_at_one_step_is_refused_in_the_end(tmp_path: Path) -> None:
    # The first one saves a checkpoint on its way; it is not from the same step.
    _fails(tmp_path, 1 + 3)
    with pytest.raises(CheckpointError, match="3 starts in a row from checkpoint-4") as error:
        _start(tmp_path)
    text = str(error.value)
    assert text.count("after step 4: ValueError: no such user: 7") == 3
    assert f"go back: --resume_from_checkpoint {tmp_path / 'checkpoint-2'}" in text
    assert "to try again as it is: --max_failed_starts 0" in text
    assert error.value.retry_with == ("--max_failed_starts", "0")


def test_what_is_mended_goes_on(tmp_path: Path) -> None:
    _fails(tmp_path, 1 + 3)
    with pytest.raises(CheckpointError, match="3 starts in a row"):
        _start(tmp_path, None)
    done = _start(tmp_path, None, most=0)
    assert done.state.global_step == done.state.max_steps
    assert not RunFolder(tmp_path).starts.exists()


def test_starts_that_come_further_are_not_counted(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        _fails(tmp_path, 2, step=step)


def test_a_stop_by_a_signal_is_no_failure(tmp_path: Path) -> None:
    _fails(tmp_path, 1 + 2)
    stop = At(4, "on_step_begin", kill_self())
    with pytest.raises(Interrupted):
        quiet_trainer(tmp_path, callbacks=(stop,), **SMALL).train(True)
    assert failed_starts(RunFolder(tmp_path), 4) == []
    _fails(tmp_path, 3)


def test_other_hyperparameters_and_a_restart_begin_to_count_anew(tmp_path: Path) -> None:
    _fails(tmp_path, 1 + 3)
    _fails(tmp_path, 1, learning_rate=1e-5)
    assert len(failed_starts(RunFolder(tmp_path), 4)) == 1
    with pytest.raises(ValueError, match="no such user"):
        quiet_trainer(
            tmp_path, CheckpointConfig(restart=True), callbacks=(At(1, "on_step_begin", _fail),), **SMALL
        ).train()
    assert len(failed_starts(RunFolder(tmp_path), 0)) == 1


def test_a_command_that_repeats_its_change_is_refused_in_the_end(tmp_path: Path) -> None:
    """The checkpoint has the old value until a save has the new one, so each start is a change again."""
    _fails(tmp_path, 1)
    _fails(tmp_path, 3, learning_rate=1e-5)
    with pytest.raises(CheckpointError, match="3 starts in a row from checkpoint-4"):
        _start(tmp_path, learning_rate=1e-5)
    _fails(tmp_path, 1, learning_rate=2e-5)
    _fails(tmp_path, 1)


@pytest.mark.parametrize("content", ["{", '[{"step": -1}]', "[" * 200])
def test_a_damaged_record_is_as_none(content: str, tmp_path: Path) -> None:
    _fails(tmp_path, 1 + 3)
    RunFolder(tmp_path).starts.write_text(content, encoding="utf-8")
    _fails(tmp_path, 1)


def test_a_password_is_not_recorded(tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("cannot reach s3://user:secret@bucket/x\nsecond line")

    with pytest.raises(ValueError, match="cannot reach"):
        quiet_trainer(tmp_path, callbacks=(At(1, "on_step_begin", fail),), **SMALL).train(True)
    text = RunFolder(tmp_path).starts.read_text(encoding="utf-8")
    assert "cannot reach s3://***" in text
    assert "secret" not in text
    assert "second line" not in text


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="--max_failed_starts -1"):
        CheckpointConfig(max_failed_starts=-1)
