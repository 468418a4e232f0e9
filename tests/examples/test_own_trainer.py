"""The example of a Trainer of one's own does what its docstring says, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from llamarec.checkpoints.resume.safe_load import load_weights
from llamarec.checkpoints.storage.discovery import best_in, order_of_saves
from llamarec.checkpoints.storage.layout import RunFolder, step_of
from llamarec.checkpoints.storage.manifest import read_manifest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "own_trainer.py"
ENDLESS = ("--max_steps", "1000000", "--save_steps", "200")
_TIMEOUT_SECONDS = 120


def _start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    quiet = ("--output_dir", str(folder), "--disable_tqdm", "true", "--use_cpu", "true")
    command = [sys.executable, str(SCRIPT), *quiet, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8")


def _finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
    return process.returncode, said


def _wait_for_a_save(process: subprocess.Popen[str], run: RunFolder, after: int = 0) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while _newest(run) <= after:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _newest(run: RunFolder) -> int:
    saves = order_of_saves(run) if run.path.is_dir() else []
    return (step_of(saves[0]) or 0) if saves else 0


def test_it_is_killed_stopped_changed_and_finished(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    process = _start(run.path, *ENDLESS)
    _wait_for_a_save(process, run)
    process.kill()
    process.communicate()
    killed_at = _newest(run)

    if os.name != "nt":
        process = _start(run.path, *ENDLESS)
        _wait_for_a_save(process, run, killed_at)
        process.terminate()
        code, said = _finish(process)
        assert code == 75, said
        assert "SIGTERM: stopped after step" in said
        assert f"{run.checkpoint(killed_at)} (latest;" in said
        assert "Traceback" not in said

    end = _newest(run) + 150
    code, said = _finish(_start(run.path, "--max_steps", str(end), "--learning_rate", "1e-3"))
    assert code == 0, said
    assert "applied:     learning_rate  0.01 -> 0.001 (from the next step on" in said
    newest = read_manifest(run.checkpoint(end))
    assert newest is not None
    assert (newest.reason, newest.hyperparameters["learning_rate"]) == ("final", 1e-3)
    _assert_best_is_there(run, said)


def _assert_best_is_there(run: RunFolder, said: str) -> None:
    best, weights = best_in(run), load_weights(run.path)
    assert best is not None
    assert weights is not None
    assert f"best model   step {best.step}, in {run.path}/model.safetensors" in said
    # It is the one of that validation.
    x = torch.linspace(-3, 3, 101).unsqueeze(1)
    hidden = torch.tanh(x @ weights["layers.0.weight"].T + weights["layers.0.bias"])
    y = hidden @ weights["layers.2.weight"].T + weights["layers.2.bias"]
    assert float(((y - torch.sin(x)) ** 2).mean()) == pytest.approx(best.metrics["best_metric"], rel=1e-3)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run of 20 steps."""
    code, said = _finish(_start(tmp_path / "run", "--max_steps", "20"))
    assert code == 0, said
    return tmp_path / "run"


def test_another_model_is_refused_in_words_until_a_restart(finished: Path) -> None:
    before = sorted(path.name for path in finished.rglob("*"))
    code, said = _finish(_start(finished, "--hidden", "8"))
    assert code == 2, said
    assert "Traceback" not in said
    assert f"error: {finished / 'checkpoint-20'} belongs to a different run than this command" in said
    assert "expected: model 32 hidden units (identifies the run)" in said
    assert "found:    model 8 hidden units" in said
    assert sorted(path.name for path in finished.rglob("*")) == before
    code, said = _finish(_start(finished, "--hidden", "8", "--restart", "--max_steps", "30"))
    assert code == 0, said
    assert step_of(order_of_saves(RunFolder(finished))[0]) == 30
