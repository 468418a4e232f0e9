"""The example of a Trainer of one's own does what its docstring says, as a process of its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from llamarec.checkpoints.resume.safe_load import load_weights
from llamarec.checkpoints.storage.discovery import best_in, order_of_saves
from llamarec.checkpoints.storage.layout import RunFolder, step_of
from llamarec.checkpoints.storage.manifest import read_manifest
from tests.programs import Programs
from tests.resume.forks import Child

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "own_trainer.py"
ENDLESS = ("--max_steps", "1000000", "--save_steps", "200")
_TIMEOUT_SECONDS = 120


class Example:
    """The program, over one folder."""

    def __init__(self, programs: Programs, run: RunFolder) -> None:
        self._programs, self._run = programs, run

    def start(self, *flags: str) -> Child:
        quiet = ("--output_dir", str(self._run.path), "--disable_tqdm", "true", "--use_cpu", "true")
        return self._programs.start(str(SCRIPT), *quiet, *flags)

    def finish(self, child: Child) -> tuple[int, str]:
        """Exit code, and what it said."""
        ending = self._programs.wait(child)
        return ending.status, ending.log

    def wait_for_a_save(self, child: Child, after: int = 0) -> None:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while _newest(self._run) <= after:
            assert time.monotonic() < deadline, child.said
            time.sleep(0.05)


def _newest(run: RunFolder) -> int:
    saves = order_of_saves(run) if run.path.is_dir() else []
    return (step_of(saves[0]) or 0) if saves else 0


def test_it_is_killed_stopped_changed_and_finished(tmp_path: Path, programs: Programs) -> None:
    run = RunFolder(tmp_path / "run")
    example = Example(programs, run)
    process = example.start(*ENDLESS)
    example.wait_for_a_save(process)
    process.kill()
    example.finish(process)
    killed_at = _newest(run)

    if os.name != "nt":
        process = example.start(*ENDLESS)
        example.wait_for_a_save(process, killed_at)
        os.kill(process.pid, signal.SIGTERM)
        code, said = example.finish(process)
        assert code == 75, said
        assert "SIGTERM: stopped after step" in said
        assert f"{run.checkpoint(killed_at)} (latest;" in said
        assert "Traceback" not in said

    end = _newest(run) + 150
    code, said = example.finish(example.start("--max_steps", str(end), "--learning_rate", "1e-3"))
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


def test_another_model_is_refused_in_words_until_a_restart(tmp_path: Path, programs: Programs) -> None:
    run = RunFolder(tmp_path / "run")
    example = Example(programs, run)
    code, said = example.finish(example.start("--max_steps", "20"))
    assert code == 0, said

    before = sorted(path.name for path in run.path.rglob("*"))
    code, said = example.finish(example.start("--hidden", "8"))
    assert code == 2, said
    assert "Traceback" not in said
    assert f"error: {run.path / 'checkpoint-20'} belongs to a different run than this command" in said
    assert "expected: model 32 hidden units (identifies the run)" in said
    assert "found:    model 8 hidden units" in said
    assert sorted(path.name for path in run.path.rglob("*")) == before

    code, said = example.finish(example.start("--hidden", "8", "--restart", "--max_steps", "30"))
    assert code == 0, said
    assert step_of(order_of_saves(run)[0]) == 30
