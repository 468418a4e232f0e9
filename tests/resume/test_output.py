"""No write to a terminal, a pipe, a log or a tracker ends a training."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from llamarec.checkpoints.trainer.output_streams import LossyStream, lossy
from tests.resume.runs import quiet_trainer

SMALL: dict[str, Any] = {"num_samples": 12, "max_steps": 4, "save_steps": 2}


class Full(io.StringIO):
    """A stream on a disk without room."""

    error: Exception = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, text: str) -> int:
        raise self._error()

    def flush(self) -> None:
        raise self._error()

    def _error(self) -> Exception:
        """A new one: an error that is kept holds the calls it went through, and with them every trainer before."""
        return type(self.error)(*self.error.args)


class Closed(Full):
    error = ValueError("I/O operation on closed file")


class Pipe(Full):
    error = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class Prints(TrainerCallback):
    """A user's callback, which counts after it has printed."""

    def __init__(self) -> None:
        self.count = 0

    def _print(self, *_: Any, **__: Any) -> None:
        print("a line", flush=True)
        print("a line", file=sys.stderr, flush=True)
        self.count += 1

    on_train_begin = on_step_end = on_log = on_save = on_train_end = _print


@pytest.mark.parametrize("stream", [Full, Closed, Pipe])
@pytest.mark.parametrize("shows", [ProgressCallback, PrinterCallback])
def test_a_program_of_ones_own_trains_to_its_end(
    shows: Any, stream: type[Full], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = Prints()
    trainer = quiet_trainer(tmp_path, callbacks=(prints,), **SMALL)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(shows)
    out, err = stream(), stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    trainer.train()

    # The program's own streams are as they were, and its callbacks did all that they do.
    assert (sys.stdout, sys.stderr) == (out, err)
    assert trainer.state.global_step == 4
    assert prints.count >= 10
    assert not trainer.last_save_failed
    assert {type(one) for one in trainer.callback_handler.callbacks} >= {shows, Prints}


class Tracker(TensorBoardCallback):
    """A tracker that fails at an event."""

    def __init__(self, event: str, error: Exception) -> None:
        super().__init__()
        self._event, self._error = event, error

    def _fail(self, event: str) -> None:
        if event == self._event:
            raise type(self._error)(*self._error.args)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._fail("on_train_begin")

    def on_log(self, *_: Any, **__: Any) -> None:
        self._fail("on_log")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._fail("on_train_end")


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ("on_train_begin", OSError(errno.ENOSPC, "No space left on device")),
        ("on_log", OSError(errno.ENOSPC, "No space left on device")),
        ("on_log", RuntimeError("the server does not answer")),
        ("on_train_end", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_a_tracker_that_fails_is_named_once(
    event: str, error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = quiet_trainer(tmp_path, callbacks=(Tracker(event, error),), **SMALL)
    trainer.train()
    assert trainer.state.global_step == 4
    assert capsys.readouterr().err.count(f"WARNING: Tracker failed: {type(error).__name__}") == 1
    assert type(trainer.pop_callback(Tracker)) is Tracker


def test_a_tracker_that_cannot_be_set_up_is_an_error_before_training(tmp_path: Path) -> None:
    tracker = Tracker("on_train_begin", RuntimeError("not logged in"))
    with pytest.raises(RuntimeError, match="not logged in"):
        quiet_trainer(tmp_path, callbacks=(tracker,), **SMALL).train()


def test_an_error_of_a_callback_of_ones_own_is_not_hidden(tmp_path: Path) -> None:
    class Fails(TrainerCallback):
        def on_log(self, *_: Any, **__: Any) -> None:
            raise OSError(errno.EIO, "of its own file")

    with pytest.raises(OSError, match="of its own file"):
        quiet_trainer(tmp_path, callbacks=(Fails(),), **SMALL).train()


def test_a_lossy_stream_is_named_once_on_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Pipe())
    monkeypatch.setattr(sys, "stderr", err)
    with lossy():
        print("one", flush=True)
        print("two", flush=True)
        inner = sys.stdout
        with lossy():
            assert sys.stdout is inner
    assert err.getvalue().count("standard output cannot be written (Broken pipe); training continues without it") == 1


def test_a_lossy_stream_is_its_stream_otherwise() -> None:
    stream: Any = LossyStream(io.TextIOWrapper(io.BytesIO(), encoding="latin-1"), "standard output", None)
    assert (stream.encoding, stream.isatty()) == ("latin-1", False)
