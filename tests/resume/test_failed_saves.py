"""Whatever a save raises: training goes on, the next save pays what this one owed, and what stays owed is told."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from transformers import TrainerCallback

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.best_model import read_best
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.verification import verify, verify_best
from llamarec.checkpoints.trainer.resumable import ResumableTrainer
from llamarec.checkpoints.trainer.saves import best, saver, writer
from tests.resume.runs import quiet_trainer
from tests.resume.training import make_trainer, outcome, state_of

BEST, LAST = 6, 10
"""The best of all validations comes at the second of four saves, the last one at the training's end."""
HILL: dict[str, Any] = {"learning_rate": 0.2, "lr_scheduler_type": "linear", "greater_is_better": True}
"""The best is the worst loss, which these lead to on the way."""

ERRORS: dict[str, Callable[[], Exception]] = {
    "the system": lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
    "torch's zip writer": lambda: RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    "safetensors": lambda: SafetensorError("Error while serializing: I/O error: No space left (os error 28)"),
    "memory": MemoryError,
    "a bug": lambda: KeyError("a name"),
}


class Fails:
    """Stands before a function, and raises so many times at first when it is asked for a step's save.

    Args:
        step: Of the saves that fail.
        make: Makes the error.
        times: Calls that fail.
    """

    def __init__(self, step: int, make: Callable[[], Exception], times: float = 1) -> None:
        self._step, self._make, self._left = step, make, times
        self.trainer: Any = None

    @property
    def has_failed(self) -> bool:
        return self._left < 1

    def __call__(self) -> None:
        if self.trainer.state.global_step >= self._step and self._left > 0:
            self._left -= 1
            raise self._make()

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with this before it."""

        def failing(*args: Any, **kwargs: Any) -> Any:
            self()
            return function(*args, **kwargs)

        return failing


class Stateful(TrainerCallback):
    """Writes a file at each save, which belongs to the checkpoint."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "notes.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(state.global_step), encoding="utf-8")


def _trainer(folder: Path, *, in_background: bool = True, **changes: Any) -> Any:
    config = CheckpointConfig(background_saves=in_background)
    return make_trainer(folder, config, num_samples=20, callbacks=(Stateful(),), **HILL, **changes)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    _trainer(folder).train()
    manifest = read_best(folder)
    assert manifest is not None
    assert manifest.step == BEST
    return outcome(folder)


@pytest.fixture(autouse=True)
def _no_observer() -> Iterator[None]:
    yield
    durable.observer = None


def _effect(name: str, ending: str) -> Callable[[Fails, Any, pytest.MonkeyPatch], None]:
    def arm(fails: Fails, trainer: Any, patch: pytest.MonkeyPatch) -> None:
        def observe(effect: str, path: Path) -> None:
            if (effect, path.name) == (name, ending):
                fails()

        patch.setattr(durable, "observer", observe)

    return arm


def _function(module: Any, name: str) -> Callable[[Fails, Any, pytest.MonkeyPatch], None]:
    return lambda fails, _, patch: patch.setattr(module, name, fails.before(getattr(module, name)))


def _weights(fails: Fails, trainer: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer.model, "save_pretrained", fails.before(trainer.model.save_pretrained))


def _state(fails: Fails, trainer: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer.control, "state", fails.before(trainer.control.state))


SITES: dict[str, Callable[[Fails, Any, pytest.MonkeyPatch], None]] = {
    "weights": _weights,
    "a file that is begun": _effect("make", "scheduler.pt"),
    "a file that is torn": _effect("torn", "optimizer.pt"),
    "the manifest": _effect("fsync", "manifest.json"),
    "the rename": _effect("rename", f"checkpoint-{BEST}"),
    "states": _state,
    "pickles": _function(saver, "pickled"),
    "room": _function(writer, "free_bytes"),
    "the best, copied": _function(best, "copy_file"),
    "the best, verified": _function(best, "verify_best"),
    "the best, moved": _effect("rename", "best.json"),
    "old ones, looked at": _function(writer, "inspect"),
    "old ones, deleted": _function(writer, "to_delete"),
}
# Every error where weights and optimizer are written; each other site with one of them.
_PAIRS = [
    *((site, error) for site in ("weights", "a file that is torn") for error in ERRORS),
    *((site, error) for site, error in zip(SITES, itertools.cycle(ERRORS)) if site != "weights"),
]


@pytest.mark.parametrize("in_background", [True, False], ids=["background", "foreground"])
@pytest.mark.parametrize(("site", "error"), _PAIRS)
def test_the_next_save_pays(
    site: str,
    error: str,
    in_background: bool,
    tmp_path: Path,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fails = Fails(BEST, ERRORS[error])
    trainer = fails.trainer = _trainer(tmp_path, in_background=in_background)
    SITES[site](fails, trainer, monkeypatch)

    trainer.train()

    assert fails.has_failed
    assert "WARNING: " in capsys.readouterr().err
    assert not trainer.last_save_failed
    assert outcome(tmp_path) == uninterrupted
    assert verify(tmp_path / f"checkpoint-{BEST}").health == verify_best(tmp_path).health == "good"
    assert (tmp_path / f"checkpoint-{BEST}/notes.txt").read_text(encoding="utf-8") == str(BEST)
    assert not list(tmp_path.glob(".*-callbacks"))


@pytest.mark.parametrize("in_background", [True, False], ids=["background", "foreground"])
@pytest.mark.parametrize("site", [site for site in SITES if not site.startswith("old ones")])
def test_what_stays_owed_is_told(
    site: str, in_background: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = Fails(BEST, ERRORS["the system"], times=1000)
    trainer = fails.trainer = _trainer(tmp_path, in_background=in_background)
    SITES[site](fails, trainer, monkeypatch)

    assert trainer.train().global_step == LAST

    assert trainer.last_save_failed
    assert "WARNING: " in capsys.readouterr().err
    assert any(verify(path).health == "good" for path in tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("in_background", [True, False], ids=["background", "foreground"])
def test_a_best_model_that_cannot_be_kept_is_told(
    in_background: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class WritesItself(ResumableTrainer):
        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            super().save_model(output_dir, _internal_call)

    fails = Fails(BEST, ERRORS["the system"])
    trainer = fails.trainer = _trainer(tmp_path, in_background=in_background, cls=WritesItself)
    _effect("torn", "optimizer.pt")(fails, trainer, monkeypatch)

    trainer.train()

    said = capsys.readouterr().err
    assert f"the best model (step {BEST}) is lost" in said
    assert trainer.last_save_failed
    assert verify(tmp_path / f"checkpoint-{LAST}").health == "good"


def test_a_system_without_room_for_a_thread_saves_in_the_foreground(
    tmp_path: Path, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "checkpoint-saver":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    trainer = _trainer(tmp_path)
    trainer.train()
    assert not trainer.last_save_failed
    assert outcome(tmp_path) == uninterrupted


def test_a_read_error_of_the_data_at_a_save_does_not_end_training(
    tmp_path: Path, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = Fails(BEST, ERRORS["the system"])
    trainer = fails.trainer = _trainer(tmp_path)
    data = trainer._resumable.data
    monkeypatch.setattr(type(data), "drawn_again", fails.before(type(data).drawn_again))
    trainer.train()
    assert fails.has_failed
    assert "could not be drawn again at this save" in capsys.readouterr().err
    assert not trainer.last_save_failed
    assert outcome(tmp_path) == uninterrupted


def _remove_best(folder: Path) -> None:
    shutil.rmtree(folder / f"checkpoint-{BEST}")
    for path in folder.iterdir():
        if path.is_file() and path.suffix in (".json", ".safetensors"):
            path.unlink()


def test_a_resume_without_the_best_model_says_so_at_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class StopsBefore(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == LAST - 1:
                control.should_save = control.should_training_stop = True

    first = _trainer(tmp_path)
    first.add_callback(StopsBefore())
    first.train()
    _remove_best(tmp_path)
    capsys.readouterr()

    trainer = _trainer(tmp_path)
    trainer.train(resume_from_checkpoint=True)

    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert last.startswith(f"WARNING: the best model (step {BEST}) was not there when this process resumed; ")
    assert last.endswith(f"step {LAST} is the best since then")
    assert trainer.lost_best_step == BEST


def test_a_best_model_that_goes_while_training_is_told(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    load = trainer._resumable.weights.load_best

    def load_after(run: RunFolder) -> bool:
        _remove_best(tmp_path)
        return bool(load(run))

    trainer._resumable.weights.load_best = load_after
    trainer.train()
    assert trainer.last_save_failed


@pytest.mark.parametrize("in_background", [True, False], ids=["background", "foreground"])
def test_no_checkpoint_has_the_empty_card_of_peft(in_background: bool, tmp_path: Path) -> None:
    _trainer(tmp_path, in_background=in_background).train()
    assert list(tmp_path.rglob("adapter_config.json"))
    assert not list(tmp_path.rglob("README.md"))


class EatsDescriptors(TrainerCallback):
    """Leaves no file descriptor between two steps."""

    def __init__(self, start: int, end: int) -> None:
        self._start, self._end = start, end
        self._held: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._start:
            with contextlib.suppress(OSError):
                while True:
                    self._held.append(os.open(os.devnull, os.O_RDONLY))
        if state.global_step == self._end:
            for descriptor in self._held:
                os.close(descriptor)
            # So that no resume is told of them.
            self._held.clear()


def test_without_file_descriptors_training_goes_on_until_there_are_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    small: dict[str, Any] = {"noisy": False, "max_steps": 8, "save_steps": 1}
    quiet_trainer(tmp_path / "whole", **small).train()
    starved = quiet_trainer(tmp_path / "starved", callbacks=(EatsDescriptors(3, 5),), **small)

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limits[1]), limits[1]))
    try:
        starved.train()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    said = capsys.readouterr().err
    assert "could not be saved: [Errno 24] Too many open files" in said
    assert state_of(tmp_path / "starved/checkpoint-8") == state_of(tmp_path / "whole/checkpoint-8")
