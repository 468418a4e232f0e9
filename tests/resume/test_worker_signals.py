"""A signal to the whole process group, as launchers, `timeout` and Ctrl-C send it, while processes load data."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from llamarec.checkpoints.trainer.saves import manifest_entries
from llamarec.checkpoints.trainer.worker_signals import LeaveSignals, batches_of, leave_signals, started_deaf
from tests.programs import Programs
from tests.resume.runs import quiet_trainer
from tests.resume.worker_data import Slow, stuck, worked

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups of this kind")

METHODS = ("fork", "spawn")

_PROGRAM = """
import multiprocessing, sys

if __name__ == "__main__":
    from tests.resume.training import main

    multiprocessing.set_start_method(sys.argv.pop(1))
    sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "name", "method"),
    [
        *((when, "SIGTERM", method) for when in ("first log", "first validation") for method in METHODS),
        ("first log", "SIGINT", "spawn"),
        ("first validation", "SIGINT", "fork"),
        ("first log", "SIGHUP", "fork"),
    ],
)
def test_the_work_is_saved(when: str, name: str, method: str, tmp_path: Path, programs: Programs) -> None:
    run, program = tmp_path / "run", tmp_path / "main.py"
    words = ("--max_steps", "100000", "--save_steps", "2", "--eval_steps", "2", "--dataloader_num_workers", "2")
    program.write_text(_PROGRAM, encoding="utf-8")

    child = programs.start(str(program), method, "--output_dir", run, *words)
    wanted = "'loss'" if when == "first log" else "eval_loss"
    deadline = time.monotonic() + 120
    while wanted not in (said := child.said):
        assert time.monotonic() < deadline, said
        time.sleep(0.01)
    os.killpg(child.pid, getattr(signal, name))
    ending = programs.wait(child)

    said = ending.log
    assert ending.status == 75, said
    assert "Traceback" not in said
    step = int(said.split("stopped after step ")[1].split(";")[0].replace(",", ""))
    state = json.loads((run / f"checkpoint-{step}/trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == step


def _evaluated(loader: Any) -> Any:
    """As an evaluation starts it: the Trainer iterates over it."""
    leave_signals(loader)
    return iter(loader)


def _trained(loader: Any) -> Any:
    loader.worker_init_fn = LeaveSignals()
    return batches_of(loader)


@pytest.mark.parametrize("start", [_trained, _evaluated])
@pytest.mark.parametrize("method", METHODS)
def test_workers_stay_at_a_signal_and_end_with_the_loader(method: str, start: Callable[[Any], Any]) -> None:
    batches = start(DataLoader(Slow(0.01), num_workers=2, multiprocessing_context=method))
    workers = list(batches._workers)
    # Before their first call too: they may not have come to it yet.
    for _ in range(2):
        for worker in workers:
            for name in ("SIGTERM", "SIGINT", "SIGHUP"):
                _sent_by_another(getattr(signal, name), worker.pid)
        next(batches)

    assert all(worker.is_alive() for worker in workers)
    del batches
    assert not any(worker.is_alive() for worker in workers)


def _sent_by_another(number: int, pid: int | None) -> None:
    subprocess.run(["kill", f"-{number}", str(pid)], check=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_does_not_come_to_an_end_is_ended_by_its_training(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    resource_tracker.ensure_running()
    is_ready = context.Event()
    process = context.Process(target=stuck, args=(is_ready,), daemon=True)
    with started_deaf():
        process.start()
    _sent_by_another(signal.SIGTERM, process.pid)
    assert is_ready.wait(30)
    _sent_by_another(signal.SIGTERM, process.pid)
    process.join(0.5)
    assert process.is_alive()
    process.terminate()
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("error", "status"), [("", 0), ("the disk is gone", 1)])
def test_a_worker_that_has_worked_does_not_take_the_interpreter_down(
    method: str, error: str, status: int, tmp_path: Path
) -> None:
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=worked, args=(tmp_path / "goodbye", error), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == status
    # A failed one ends in Python's own way.
    assert (tmp_path / "goodbye").exists() == (method == "spawn" and bool(error))


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Processes that are started, as an audit sees them."""
    started: list[object] = []
    is_on = True

    def hear(event: str, arguments: object) -> None:
        if is_on and event in ("subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "os.exec"):
            started.append((event, arguments))

    sys.addaudithook(hear)
    yield started
    is_on = False


def test_nothing_starts_a_process_in_a_save(tmp_path: Path, no_processes: list[object]) -> None:
    manifest_entries.name_of_platform.cache_clear()
    trainer = quiet_trainer(tmp_path, num_samples=12, max_steps=4, save_steps=2)
    save, during = trainer._resumable.trainer, list[int]()
    trainer.add_callback(_Counts(no_processes, during))
    trainer.train()
    assert save.state.global_step == 4
    # None since the first step.
    assert len(no_processes) == during[0]


class _Counts:
    def __new__(cls, started: list[object], found: list[int]) -> Any:
        from transformers import TrainerCallback

        class Counts(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                found.append(len(started))

        return Counts()
