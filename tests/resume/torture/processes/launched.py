"""The same with torchrun itself: it is killed, it starts its processes again, it passes signals on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.resume.forks import ROOT
from tests.resume.torture.kinds import Kind, Tally

_INTERRUPTED: Final = 75
_SECONDS: Final = 400.0
# Long enough that a signal comes in the middle.
_FLAGS: Final = (
    *("--num_train_epochs", "3", "--save_steps", "4", "--eval_steps", "4", "--per_device_train_batch_size", "1"),
    *("--use_cpu", "--ddp_backend", "gloo"),
)
_BLOWS: Final = ("torchrun killed", "a process killed, --max-restarts", "SIGTERM", "SIGUSR1", "SIGTERM to each process")


class Launched:
    """A training under `llamarec launch -- torchrun`, hit after its first checkpoint."""

    def __init__(self) -> None:
        self._whole: Any = None

    def points(self, folder: Path) -> list[str]:
        """What to do."""
        code, self._whole = _ended(_start(folder, folder / "run"), folder)
        if code:
            raise AssertionError((folder / "log").read_text(encoding="utf-8")[-2000:])
        return list(_BLOWS)

    def check(self, blow: str, folder: Path, tally: Tally) -> None:
        """Hit, looked at, and started again."""
        run = folder / "run"
        restarts = 2 if "restarts" in blow else 0
        process = _start(folder, run, restarts)
        _wait_for_checkpoint(run, process)
        _hit(blow, process)
        code, end = _ended(process, folder)
        if restarts:
            problem = "" if code == 0 else f"ended with {code}"
        else:
            problem = "" if code == _INTERRUPTED else f"ended with {code}: {_log(folder)}"
            code, end = (code, end) if problem else _ended(_start(folder, run), folder)
            problem = problem or (f"the next start ended with {code}: {_log(folder)}" if code else "")
        if not problem and end != self._whole:
            problem = f"another end than without it: {sorted(name for name in end if end[name] != self._whole[name])}"
        tally.add(problem)


def _start(folder: Path, run: Path, restarts: int = 0) -> subprocess.Popen[bytes]:
    # With --master_port there is one store for all restarts.
    torchrun = ["torchrun", "--standalone", "--nproc_per_node", "2", "--max-restarts", str(restarts)]
    program = ["-m", "tests.resume.training", "--output_dir", str(run), *_FLAGS]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "llamarec.cli.main", "launch", "--", *torchrun, *program],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )


def _wait_for_checkpoint(run: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not (run / "checkpoint-4").is_dir():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no checkpoint; ended with {process.poll()}")
        time.sleep(0.02)


def _hit(blow: str, process: subprocess.Popen[bytes]) -> None:
    import psutil  # type: ignore[import-untyped]

    (torchrun,) = psutil.Process(process.pid).children()
    ranks = torchrun.children()
    if blow == "torchrun killed":
        torchrun.kill()
    elif "restarts" in blow:
        ranks[-1].kill()
    elif blow == "SIGTERM to each process":
        for one in (*ranks, torchrun):
            one.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
    else:
        process.send_signal(getattr(signal, blow))


def _ended(process: subprocess.Popen[bytes], folder: Path) -> tuple[int, Any]:
    try:
        code = process.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return -1, None
    lines = [line for line in _log(folder, None).splitlines() if line.startswith("FINISHED ")]
    # Of the first process; the other one's is the same.
    return code, json.loads(lines[-1].partition(" ")[2]) if lines else None


def _log(folder: Path, most: int | None = 800) -> str:
    text = (folder / "log").read_text(encoding="utf-8", errors="replace")
    return text[-most:] if most else text


_LAUNCHED: Final = Launched()
KIND: Final = Kind(
    "torchrun", "torchrun killed, restarting, and signalled", _LAUNCHED.points, _LAUNCHED.check, trains=False
)
