"""Stopped by a signal or an exception at an awkward moment: saved, said, and resumed bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.trainer.signals import Interrupted
from tests.resume.runs import At, kill_self
from tests.resume.training import make_trainer, outcome

Arm = Callable[[Any, Callable[[], None]], None]
"""Makes a trainer call an action once, at a certain moment."""


def small_trainer(folder: Path, config: CheckpointConfig | None = None, **changes: Any) -> Any:
    """Two epochs of 5 steps, with dropout, noise, validation and early stopping."""
    return make_trainer(folder, config, num_samples=20, **changes)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Outcome of the run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    small_trainer(folder).train()
    return outcome(folder)


@pytest.fixture(autouse=True)
def _no_observer() -> Iterator[None]:
    yield
    durable.observer = None


class Once:
    """Calls its action the n-th time that it is called itself."""

    def __init__(self, action: Callable[[], None], number: int) -> None:
        self._action, self._left = action, number

    def __call__(self, *_: Any, **__: Any) -> None:
        self._left -= 1
        if self._left == 0:
            self._action()


def _forward(number: int) -> Arm:
    def arm(trainer: Any, action: Callable[[], None]) -> None:
        trainer.model.base_model.model.model.layers[1].register_forward_pre_hook(Once(action, number))

    return arm


def _backward(number: int) -> Arm:
    def arm(trainer: Any, action: Callable[[], None]) -> None:
        next(p for p in trainer.model.parameters() if p.requires_grad).register_hook(Once(action, number))

    return arm


def _event(name: str, step: int) -> Arm:
    return lambda trainer, action: trainer.add_callback(At(step, name, action))


def _before_other_callbacks(name: str, step: int) -> Arm:
    def arm(trainer: Any, action: Callable[[], None]) -> None:
        trainer.callback_handler.callbacks.insert(1, At(step, name, action))

    return arm


def _sample(number: int) -> Arm:
    def arm(trainer: Any, action: Callable[[], None]) -> None:
        read, once = type(trainer.train_dataset).__getitem__, Once(action, number)

        class Failing(type(trainer.train_dataset)):  # type: ignore[misc]
            def __getitem__(self, index: int) -> Any:
                once()
                return read(self, index)

        trainer.train_dataset.__class__ = Failing

    return arm


# After the optimizer has changed the weights.
def _optimizer(number: int) -> Arm:
    def arm(trainer: Any, action: Callable[[], None]) -> None:
        create, once = trainer.create_optimizer, Once(action, number)

        def patched(*args: Any, **kwargs: Any) -> Any:
            optimizer = create(*args, **kwargs)
            optimizer.register_step_post_hook(once)
            return optimizer

        trainer.create_optimizer = patched

    return arm


def _save(effect: str, ending: str, number: int = 1) -> Arm:
    def arm(_: Any, action: Callable[[], None]) -> None:
        once = Once(action, number)

        def observe(found: str, path: Path) -> None:
            if found == effect and path.name.endswith(ending):
                once()

        durable.observer = observe

    return arm


def _metrics(number: int) -> Arm:
    def arm(trainer: Any, action: Callable[[], None]) -> None:
        once = Once(action, number)

        def compute(_: Any) -> dict[str, float]:
            once()
            return {}

        trainer.compute_metrics = compute

    return arm


# Forward passes: two a step, and one after every third step for the validation.
SIGNALS: dict[str, Arm] = {
    "forward of the first step": _forward(1),
    "forward, second micro-batch": _forward(4),
    "backward": _backward(5),
    "last step of an epoch": _backward(10),
    "last step of all": _backward(20),
    "evaluation": _forward(7),
    "evaluation in the second epoch": _forward(2 * 6 + 2),
    "a sample": _sample(30),
    "optimizer": _optimizer(4),
    "step begin": _event("on_step_begin", 3),
    "step end": _event("on_step_end", 4),
    "step end before other callbacks": _before_other_callbacks("on_step_end", 6),
    "log": _event("on_log", 4),
    "end of evaluation": _event("on_evaluate", 6),
    "save": _event("on_save", 3),
    "epoch begin": _event("on_epoch_begin", 5),
    "epoch end": _event("on_epoch_end", 5),
    "train begin": _event("on_train_begin", 0),
    "writing the optimizer": _save("torn", "optimizer.pt"),
    "writing the manifest": _save("torn", "manifest.json", 2),
    "the rename": _save("rename", "checkpoint-6"),
    "the best model": _save("rename", "best.json"),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_stop_at_any_moment(name: str, tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    trainer = small_trainer(tmp_path)
    SIGNALS[name](trainer, kill_self())
    with pytest.raises(Interrupted) as stop:
        trainer.train()
    durable.observer = None
    assert (stop.value.code, stop.value.signal_name) == (75, "SIGTERM")
    assert Path(stop.value.checkpoint).is_dir()
    small_trainer(tmp_path).train("latest")
    assert outcome(tmp_path) == uninterrupted


def test_many_stops_in_one_run(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    resume = None
    for name in ("train begin", "forward, second micro-batch", "a sample", "backward", "epoch end"):
        trainer = small_trainer(tmp_path)
        arm = {"forward, second micro-batch": _forward(4), "a sample": _sample(6), "backward": _backward(2)}
        arm.get(name, SIGNALS[name])(trainer, kill_self("SIGINT"))
        with pytest.raises(Interrupted) as stop:
            trainer.train(resume)
        assert stop.value.signal_name == "SIGINT"
        resume = "latest"
    small_trainer(tmp_path).train("latest")
    assert outcome(tmp_path) == uninterrupted


def test_the_second_request_changes_nothing(
    tmp_path: Path, uninterrupted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = small_trainer(tmp_path)
    _backward(3)(trainer, kill_self())
    _save("torn", "optimizer.pt")(trainer, kill_self("SIGINT"))
    with pytest.raises(Interrupted) as stop:
        trainer.train()
    assert (stop.value.code, stop.value.signal_name) == (75, "SIGTERM")
    said = capsys.readouterr().err
    assert "SIGTERM: stopping after this step, then saving" in said
    assert "SIGINT: still saving (once more to end at once)" in said
    durable.observer = None
    small_trainer(tmp_path).train("latest")
    assert outcome(tmp_path) == uninterrupted


def test_the_third_request_ends_at_once_and_costs_only_what_was_not_saved(
    tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    trainer = small_trainer(tmp_path, CheckpointConfig(background_saves=False))
    _event("on_step_end", 5)(trainer, kill_self("SIGINT", "SIGINT"))
    _save("make", "optimizer.pt", 2)(trainer, kill_self("SIGINT"))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    durable.observer = None
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    small_trainer(tmp_path).train("latest")
    assert outcome(tmp_path) == uninterrupted


def test_a_stop_that_comes_during_the_last_save_finds_the_run_finished(
    tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    trainer = small_trainer(tmp_path)
    _save("unlink", "manifest.json")(trainer, kill_self())
    assert trainer.train().global_step == 10
    assert outcome(tmp_path) == uninterrupted


def test_handlers_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    small_trainer(tmp_path, max_steps=1).train()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_stop_that_cannot_be_saved_says_so(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path)

    def full(effect: str, path: Path) -> None:
        if effect == "torn" and ".saving-checkpoint-4" in str(path):
            raise OSError(28, "No space left on device", str(path))

    durable.observer = full
    _event("on_step_end", 4)(trainer, kill_self())
    with pytest.raises(Interrupted) as stop:
        trainer.train()
    assert stop.value.code == 74
    assert Path(stop.value.checkpoint).name == "checkpoint-3"
    assert trainer.last_save_failed


EXCEPTIONS: dict[str, Arm] = {
    name: SIGNALS[name] for name in SIGNALS if not name.startswith(("writing", "the ", "train begin"))
} | {
    "compute_metrics": _metrics(2),
    "substep": _event("on_substep_end", 2),
    "before the optimizer": _event("on_pre_optimizer_step", 5),
    "after the optimizer": _event("on_optimizer_step", 5),
    "prediction": _event("on_prediction_step", 6),
    "evaluation begins": _before_other_callbacks("on_evaluate", 6),
    "log before other callbacks": _before_other_callbacks("on_log", 4),
}


class _AppError(Exception):
    pass


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_at_any_moment(name: str, tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    def fail() -> None:
        torch.rand(7)
        raise _AppError(name)

    trainer = small_trainer(tmp_path)
    EXCEPTIONS[name](trainer, fail)
    with pytest.raises(_AppError, match=name):
        trainer.train()
    assert list(tmp_path.glob("checkpoint-*"))
    assert trainer._resumable.writer.last_good == trainer.state.global_step
    small_trainer(tmp_path).train("latest")
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process on SIGTERM at once")
def test_a_process_ends_with_the_exit_code(tmp_path: Path) -> None:
    """The program as a scheduler sees it."""
    command = [sys.executable, "-m", "tests.resume.training", "--output_dir", str(tmp_path), "--max_steps", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "eval_loss" not in (line := process.stdout.readline()):
            assert line
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "saved: --resume_from_checkpoint" in said
    assert "Traceback" not in said
