"""A few points of every kind of `make torture`, which tries them all."""

from __future__ import annotations

import pytest

from tests.programs import Programs
from tests.resume.forks import CAN_FORK, WHY_NOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CAN_FORK, reason=WHY_NOT)]

SCRIPTED = "kill kill-twice power power-recovery disk-full disk-small read-only damage"
TRAINED = "train-kill train-swap train-twice train-full train-small train-small-bin train-clock"


@pytest.mark.parametrize(("kinds", "every"), [(SCRIPTED, "100"), (TRAINED, "90")], ids=["scripted", "trained"])
def test_a_few_points_of_every_kind_are_survived(kinds: str, every: str, programs: Programs) -> None:
    done = programs.run("tests.resume.torture", "--every", every, "--kinds", *kinds.split())
    assert done.status == 0, done.log
    rows = {line.split()[0]: line.split() for line in done.log.splitlines() if line.strip()}
    for kind in kinds.split():
        _, tried, survived, *_ = rows[kind]
        assert tried == survived != "0" or tried == "skipped:", done.log
