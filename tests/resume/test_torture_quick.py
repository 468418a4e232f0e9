"""A few points of every kind of `make torture`, which tries them all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.resume.forks import CAN_FORK, ROOT, WHY_NOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CAN_FORK, reason=WHY_NOT)]

SCRIPTED = "kill kill-twice power power-recovery disk-full disk-small read-only damage"
TRAINED = "train-kill train-swap train-twice train-full train-small train-small-bin train-clock"


def torture(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.resume.torture", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("kinds", "every"), [(SCRIPTED, "100"), (TRAINED, "90")], ids=["scripted", "trained"])
def test_a_few_points_of_every_kind_are_survived(kinds: str, every: str) -> None:
    done = torture("--every", every, "--kinds", *kinds.split())
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    for kind in kinds.split():
        _, tried, survived, *_ = rows[kind]
        assert tried == survived != "0" or tried == "skipped:", done.stdout
