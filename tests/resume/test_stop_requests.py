"""Which signals ask for a stop, and how often; without a training."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from typing import IO

import pytest

from llamarec.checkpoints.trainer import signals
from llamarec.checkpoints.trainer.signals import LAUNCHER_ENDED, EndNow, StopRequests

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = {name: signal.getsignal(getattr(signal, name)) for name in ("SIGUSR1", "SIGTERM")}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


def test_sigusr1_asks_for_a_stop() -> None:
    with StopRequests().watched() as stop:
        signal.raise_signal(signal.SIGUSR1)
        assert stop.received == "SIGUSR1"
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_programs_own_sigusr1_stays_its_own() -> None:
    received: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    with StopRequests().watched() as stop:
        signal.raise_signal(signal.SIGUSR1)
        assert not stop.received
    assert received == [signal.SIGUSR1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_sigusr1_that_a_library_catches_stays_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("trace") / "trace"
    file: IO[str]
    with path.open("w", encoding="utf-8") as file:
        faulthandler.register(signal.SIGUSR1, file)
        try:
            with StopRequests().watched() as stop:
                signal.raise_signal(signal.SIGUSR1)
                assert not stop.received
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert "test_stop_requests" in path.read_text(encoding="utf-8")


def test_a_third_request_ends_at_once() -> None:
    with StopRequests().watched():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(EndNow):
            signal.raise_signal(signal.SIGTERM)


def test_what_a_scheduler_and_torchrun_both_send_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with StopRequests().watched() as stop:
        for _ in range(5):
            signal.raise_signal(signal.SIGTERM)
        assert stop.received == "SIGTERM"

        # Three that are some seconds apart are three.
        monkeypatch.setattr(signals, "_SAME_REQUEST_SECONDS", 0.0)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(EndNow):
            signal.raise_signal(signal.SIGTERM)


def test_the_end_of_the_launcher_is_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequests().watched() as alone:
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert not alone.received  # a shell may end before its programs
    monkeypatch.undo()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with StopRequests().watched() as stop:
        before = stop.received
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert (before, stop.received) == ("", LAUNCHER_ENDED)
