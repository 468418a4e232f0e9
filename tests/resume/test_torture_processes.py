"""A few points of `make.py torture-processes`, one of each kind."""

from __future__ import annotations

import pytest

from tests.programs import Programs
from tests.resume.forks import CAN_FORK, WHY_NOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CAN_FORK, reason=WHY_NOT)]

KINDS = "rank-kill-step rank-kill-collective rank-kill-save rank-kill-between rank-term rank-usr1 rank-term-all"


def test_a_few_points_of_every_kind_are_survived(programs: Programs) -> None:
    done = programs.run("tests.resume.torture.processes", "--every", "1000", "--kinds", *KINDS.split())
    assert done.status == 0, done.log
    rows = {line.split()[0]: line.split() for line in done.log.splitlines() if line.strip()}
    for kind in KINDS.split():
        _, tried, survived, *_ = rows[kind]
        assert tried == survived == "1", done.log
