"""`llamarec launch`: exit codes and signals of what it starts; torchrun too, whose processes need no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llamarec.cli import launch, launched
from llamarec.cli.launched import Launched, Signals
from llamarec.cli.main import main
from tests.ports import free_port

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

_PROCESS = """
import os, signal, sys, time
from pathlib import Path
from llamarec.cli.entry_point import run_main

def work():
    codes, folder = sys.argv[1].split(","), Path(sys.argv[2])
    rank = int(os.environ.get("RANK", "0"))
    if codes[rank] == "begins":
        (folder / f"ready-{rank}").touch()
        time.sleep(300)
    if codes[rank] != "wait":
        return int(codes[rank])
    received = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    (folder / f"ready-{rank}").touch()
    while not received:
        time.sleep(0.05)
    time.sleep(0.5)
    (folder / f"signals-{rank}").write_text(str(len(received)))
    return 75

sys.exit(run_main(work))
"""


def _command(folder: Path, codes: str, *launcher: str) -> list[str]:
    script = folder / "process.py"
    script.write_text(_PROCESS, encoding="utf-8")
    return [sys.executable, "-m", "llamarec.cli.main", "launch", "--", *launcher, str(script), codes, str(folder)]


def _torchrun(port: int) -> list[str]:
    return ["torchrun", "--nproc_per_node", "2", "--master_port", str(port)]


def _wait_for(folder: Path, *names: str) -> None:
    deadline = time.monotonic() + 120
    while not all((folder / name).exists() for name in names):
        assert time.monotonic() < deadline, sorted(path.name for path in folder.iterdir())
        time.sleep(0.05)


@pytest.mark.parametrize("code", [0, 2, 74, 75, 130])
def test_a_process_alone_ends_as_without_it(code: int, tmp_path: Path) -> None:
    assert subprocess.run(_command(tmp_path, str(code), sys.executable), check=False, timeout=120).returncode == code


@pytest.mark.slow
def test_torchrun_ends_with_the_code_of_its_processes(tmp_path: Path) -> None:
    command = _command(tmp_path, "0,74", *_torchrun(free_port()))
    assert subprocess.run(command, check=False, timeout=180, capture_output=True).returncode == 74


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_comes_once_to_each_process_of_torchrun(name: str, tmp_path: Path) -> None:
    process = subprocess.Popen(_command(tmp_path, "wait,wait", *_torchrun(free_port())), stderr=subprocess.DEVNULL)
    _wait_for(tmp_path, "ready-0", "ready-1")
    process.send_signal(getattr(signal, name))
    process.send_signal(getattr(signal, name))  # an impatient scheduler
    assert process.wait(120) == 75
    assert [(tmp_path / f"signals-{rank}").read_text(encoding="utf-8") for rank in (0, 1)] == ["1", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_before_training_ends_torchrun_as_one_process(name: str, tmp_path: Path) -> None:
    """Its processes do not handle signals yet, and note nothing; torchrun makes a 1 of it."""
    command = _command(tmp_path, "begins", *_torchrun(free_port())[:1], "--standalone", "--nproc_per_node", "1")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _wait_for(tmp_path, "ready-0")
    process.send_signal(getattr(signal, name))
    assert process.wait(120) == 128 + getattr(signal, name)


def test_signals_that_come_while_it_starts_are_passed_on_once(tmp_path: Path) -> None:
    signals = Signals()
    signals.received = [signal.SIGTERM, signal.SIGTERM]
    waits = [sys.executable, "-c", "import time; time.sleep(300)"]
    assert Launched(waits, os.environ, 0, signals, keeps=tmp_path).wait() == -signal.SIGTERM


def test_its_folder_stays_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launched, "_WAIT_SECONDS", 0.05)
    os.utime(tmp_path, (0, 0))
    waits = (
        "import os, sys, time\n"
        "for _ in range(600):\n"
        "    if os.stat(sys.argv[1]).st_mtime: sys.exit(0)\n"
        "    time.sleep(0.05)\n"
        "sys.exit(1)"
    )
    words = [sys.executable, "-c", waits, str(tmp_path)]
    assert Launched(words, os.environ, 0, Signals(), keeps=tmp_path).wait() == 0


def test_a_third_signal_ends_all(tmp_path: Path) -> None:
    waits = [sys.executable, "-c", "import signal, sys, time; signal.signal(15, lambda *_: None); open(sys.argv[2] + "
             "'/ready', 'w'); time.sleep(300)"]  # fmt: skip
    command = [sys.executable, "-m", "llamarec.cli.main", "launch", *waits, "", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _wait_for(tmp_path, "ready")
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert process.wait(60) == 128 + signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_what_it_started_is_asked_to_stop_if_it_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(_command(tmp_path, "wait", sys.executable))
    _wait_for(tmp_path, "ready-0")
    process.kill()
    process.wait()
    _wait_for(tmp_path, "signals-0")


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--"]) == 2
    assert "what is to be run?" in capsys.readouterr().err
    assert main(["launch", "--", "no-such-launcher"]) == 2
    assert "no-such-launcher: no such command" in capsys.readouterr().err
    assert main(["launch", "--grace", "-1", "true"]) == 2
    assert "--grace -1" in capsys.readouterr().err


# ---- --until_done ----


_TURNS = """
import os, signal, sys, time
from pathlib import Path

codes, folder = sys.argv[1].split(","), Path(sys.argv[2])
turn = len(list(folder.glob("turn-*")))
(folder / f"turn-{turn}").touch()
if codes[turn] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if codes[turn] == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (folder / "ready").touch()
    time.sleep(300)
sys.exit(int(codes[turn]))
"""


def _turns(folder: Path, codes: str) -> list[str]:
    script = folder / "turns.py"
    script.write_text(_TURNS, encoding="utf-8")
    launch = [sys.executable, "-m", "llamarec.cli.main", "launch", "--until_done", "--"]
    return [*launch, sys.executable, str(script), codes, str(folder)]


@pytest.mark.parametrize(
    ("codes", "code", "num_turns"), [("75,killed,75,0", 0, 4), ("75,2,0", 2, 2), ("74,0", 74, 1), ("130,0", 130, 1)]
)
def test_it_is_started_again_until_it_has_finished_or_needs_somebody(
    codes: str, code: int, num_turns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(launch, "_PAUSE_SECONDS", 0.1)
    command = _turns(tmp_path, codes)
    assert main(command[command.index("launch") :]) == code
    assert len(list(tmp_path.glob("turn-*"))) == num_turns
    assert ("ended with 75: again in" in capfd.readouterr().err) == (num_turns > 1)


@pytest.mark.parametrize("codes", ["75,wait,0", "75,0"])
def test_a_signal_ends_the_turns_too(codes: str, tmp_path: Path) -> None:
    """While the second one runs, or in the pause before it."""
    with subprocess.Popen(_turns(tmp_path, codes), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "again in" in line)
        if "wait" in codes:
            _wait_for(tmp_path, "ready")
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(120) == 75
    assert len(list(tmp_path.glob("turn-*"))) == (2 if "wait" in codes else 1)
