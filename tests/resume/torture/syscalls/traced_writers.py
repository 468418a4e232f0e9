"""Small jobs under the tracer, and what must come of them: the proof that it sees, and that its faults are real."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.resume.forks import Ending, Job
from tests.resume.torture.syscalls.faults import Spoil, Watch, What
from tests.resume.torture.syscalls.tracer import trace, why_not


def _by_python(folder: str) -> None:
    with (Path(folder) / "python").open("wb", buffering=0) as file:
        file.write(b"0123456789")


def _by_python_to_the_end(folder: str) -> None:
    (Path(folder) / "python").write_bytes(b"0123456789")


def _by_rust(folder: str) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.ones(10)}, Path(folder) / "rust.safetensors")


def _by_cpp(folder: str) -> None:
    import torch

    torch.save({"a": torch.ones(10)}, str(Path(folder) / "cpp.pt"))


def _by_a_child_and_a_thread(folder: str) -> None:
    import subprocess
    import threading

    subprocess.run(["/bin/sh", "-c", f"echo x > {folder}/child"], check=True)
    thread = threading.Thread(target=lambda: (Path(folder) / "thread").write_bytes(b"x"))
    thread.start()
    thread.join()


def main(folder: Path) -> dict[str, Any]:
    """What was expected and came, by name; or why nothing can be traced."""
    reason = why_not()
    if reason:
        return {"skipped": reason}
    import torch  # noqa: F401 - once, for all children

    found = {
        "Python": _sees(folder / "1", _by_python, "python"),
        "Rust": _sees(folder / "2", _by_rust, ".safetensors"),
        "C++": _sees(folder / "3", _by_cpp, "cpp.pt"),
        "child": _sees(folder / "4", _by_a_child_and_a_thread, "child"),
        "thread": _sees(folder / "5", _by_a_child_and_a_thread, "thread"),
    }
    path = Path("work/python")
    ending, where = _spoiled(folder / "6", "kill", 1, _by_python)
    found["kill"] = ending.status == -signal.SIGKILL and (where / path).read_bytes() == b""
    ending, where = _spoiled(folder / "7", "killed-after", 1, _by_python)
    found["killed-after"] = ending.status == -signal.SIGKILL and (where / path).read_bytes() == b"0123456789"
    ending, where = _spoiled(folder / "8", "torn", 1, _by_python)
    found["torn"] = ending.status == -signal.SIGKILL and (where / path).read_bytes() == b"01234"
    ending, where = _spoiled(folder / "9", "short", 1, _by_python_to_the_end)
    found["short"] = ending.status == 0 and (where / path).read_bytes() == b"0123456789"
    ending, where = _spoiled(folder / "10", "full", 0, _by_rust)
    found["full"] = ending.status == 1 and "os error 28" in ending.log and not os.listdir(where / "work")
    ending, _ = _spoiled(folder / "11", "error", 1, _by_python)
    found["error"] = ending.status == 1 and "Input/output error" in ending.log
    return {name: "as expected" if good else "NOT" for name, good in found.items()}


def _sees(folder: Path, job: Job, name: str) -> bool:
    (folder / "work").mkdir(parents=True)
    watch = Watch(folder / "work", folder / "child")
    ending = trace(folder / "child", watch, job, folder=str(folder / "work"))
    seen = {(call.shape.effect, path.name) for call in watch.calls for path in call.paths}
    opened = [path for effect, path in seen if effect in ("open", "rename") and path.endswith(name)]
    written = [call for call in watch.calls if call.shape.effect == "write"]
    return ending.status == 0 and bool(opened) and bool(written) and not watch.outside


def _spoiled(folder: Path, what: What, number: int, job: Job) -> tuple[Ending, Path]:
    (folder / "work").mkdir(parents=True)
    spoil = Spoil(folder / "work", folder / "child", what=what, number=number)
    return trace(folder / "child", spoil, job, folder=str(folder / "work")), folder
