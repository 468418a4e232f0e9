"""Commands whose output cannot be written: trainings go on, the others end as Unix tools do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="neither /dev/full nor a shell's pipe")

_PROGRAM = """
import sys
from pathlib import Path

from llamarec.cli.entry_point import run_main


def work():
    for number in range({lines}):
        print("a line", number, flush={flush})
        print("a line", number, file=sys.stderr)
    Path(sys.argv[1]).write_text("done")
    return {code}


sys.exit(run_main(work, trains={trains}))
"""


def _run(
    folder: Path, redirect: str, *, trains: bool, code: int = 0, lines: int = 20_000, flush: bool = False
) -> tuple[int, str, bool]:
    """Exit code, standard error, and whether the work came to its end."""
    program, done = folder / "program.py", folder / "done"
    program.write_text(_PROGRAM.format(trains=trains, code=code, lines=lines, flush=flush), encoding="utf-8")
    command = f"'{sys.executable}' '{program}' '{done}' {redirect}"
    found = subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    return found.returncode, found.stderr, done.exists()


def _is_full() -> bool:
    """Whether /dev/full is the device: in some sandboxes it takes everything."""
    try:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")
    except OSError:
        return True
    return False


# A descriptor that only reads fails at each write, as a full disk does.
FAILS = "> /dev/full" if _is_full() else "1< /dev/null"
WHY = "No space left on device" if _is_full() else "Bad file descriptor"
REDIRECTS = [
    "| head -1",
    FAILS,
    "1< /dev/null 2< /dev/null",
    "> /dev/full",
    "2> /dev/full",
    "> /dev/full 2>&1",
    ">&- 2>&-",
    ">&-",
]


@pytest.mark.parametrize("redirect", REDIRECTS)
@pytest.mark.parametrize(("code", "lines", "flush"), [(0, 20_000, False), (74, 3, False), (75, 3, True)])
def test_a_training_comes_to_its_end(redirect: str, code: int, lines: int, flush: bool, tmp_path: Path) -> None:
    found = _run(tmp_path, redirect, trains=True, code=code, lines=lines, flush=flush)
    assert found[::2] == (code, True), found
    assert "Traceback" not in found[1]


def test_a_training_says_once_that_its_output_is_lost(tmp_path: Path) -> None:
    _, said, _ = _run(tmp_path, FAILS, trains=True, lines=3, flush=True)
    assert said.count(f"standard output cannot be written ({WHY})") == 1


@pytest.mark.parametrize("lines", [3, 20_000])
def test_another_command_ends_quietly_at_a_closed_pipe(lines: int, tmp_path: Path) -> None:
    code, said, _ = _run(tmp_path, "2> /dev/null | head -1", trains=False, lines=lines)
    assert (code, said) == (0, "")


@pytest.mark.parametrize("lines", [3, 20_000])
def test_another_command_says_that_its_output_is_lost(lines: int, tmp_path: Path) -> None:
    code, said, _ = _run(tmp_path, FAILS, trains=False, lines=lines)
    assert code == 2
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert WHY in last
    assert "Traceback" not in said


@pytest.mark.parametrize("words", ["--help", "checkpoints --help", "--version"])
def test_help_that_cannot_be_written_is_no_success(words: str) -> None:
    command = f"'{sys.executable}' -m llamarec.cli.main {words} {FAILS}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert WHY in found.stderr
