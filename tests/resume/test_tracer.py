"""The tracer below Python: what it sees of Python, Rust and C++, and what its faults do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import Programs
from tests.resume.forks import CAN_FORK, ROOT, WHY_NOT

if not CAN_FORK:
    pytest.skip(WHY_NOT, allow_module_level=True)

PROGRAM = """
import json, sys
from pathlib import Path
from tests.resume.torture.syscalls import traced_writers
print(json.dumps(traced_writers.main(Path(sys.argv[1]))))
"""


@pytest.mark.slow
def test_writes_of_every_language_are_seen_and_can_be_spoiled(tmp_path: Path) -> None:
    """In a process of its own: pytest's has threads, and may not fork."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    if "skipped" in found:
        pytest.skip(str(found["skipped"]))
    assert found == dict.fromkeys(found, "as expected")
    assert len(found) == 11


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "every"),
    [("export-kill export-full recommend-torn backup-error restore-kill", "60"), ("items-resume-kill", "150")],
    ids=["commands", "items"],
)
def test_a_few_points_below_python_are_survived(kinds: str, every: str, programs: Programs) -> None:
    done = programs.run("tests.resume.torture.syscalls", "--every", every, "--kinds", *kinds.split())
    assert done.status == 0, done.log
    assert "skipped: " in done.log or "total" in done.log
