"""Some points of `tests.checkpoints.mirror.sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints.mirror.sweep import STORES, sweep, table
from tests.resume.forks import CAN_FORK, WHY_NOT, Forks


@pytest.mark.slow
@pytest.mark.skipif(not CAN_FORK, reason=WHY_NOT)
@pytest.mark.parametrize("store", STORES)
def test_a_kill_costs_no_copy_that_was_whole(store: str, tmp_path: Path) -> None:
    with Forks() as server:

        def run(store: str, at: int, folder: Path) -> dict[str, Any]:
            ending = server.run("tests.checkpoints.mirror.sweep:job", store=store, at=at, folder=str(folder))
            assert ending.status == 0, ending.log
            found: dict[str, Any] = ending.result
            return found

        results = sweep(run, store, tmp_path, every=13)

    assert sum(one["was_killed"] for one in results) >= 6
    assert not [one for one in results if one["problems"]], table({store: results})
