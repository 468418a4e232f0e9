"""Killed anywhere and resumed, any number of times, a training ends as if it had never been interrupted.

Every child is a real process and is ended by a real SIGKILL: from outside at a random moment, or by itself at a random
effect on the disk (in the middle of a write, before an fsync, between two renames, while it clears up after a kill).
`make torture` does it at every effect.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.resume.forks import CAN_FORK, WHY_NOT, Ending, Forks

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CAN_FORK, reason=WHY_NOT)]

# Dropout, random draws in data set, collator and callbacks, accumulation, evaluation, the best model and early
# stopping are in each of them, see `training`.
VARIANTS: dict[str, dict[str, Any]] = {
    "no workers": {},
    "workers": {"dataloader_num_workers": 2},
    "saves by time": {"config": {"save_seconds": 1e-3}},
    "saves in the foreground, adapter_model.bin": {"config": {"background_saves": False, "adapter_format": "bin"}},
}


TRAIN = "tests.resume.jobs:train"


def ended(ending: Ending) -> Any:
    """The result of a job that came to its end."""
    assert ending.status == 0, ending.log
    return ending.result


Whole = Callable[[str], tuple[Any, float]]


@pytest.fixture(scope="module")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A variant's training without an interruption: what it returned, and its seconds."""

    @cache
    def trained(variant: str) -> tuple[Any, float]:
        started, folder = time.monotonic(), str(tmp_path_factory.mktemp("whole"))
        result = ended(forks.run(TRAIN, folder=folder, **VARIANTS[variant]))
        return result, time.monotonic() - started

    return trained


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_at_any_moment(forks: Forks, tmp_path: Path, variant: str, whole: Whole) -> None:
    options, draw, folder = VARIANTS[variant], random.Random(variant), str(tmp_path)
    expected, seconds = whole(variant)
    for _ in range(3):
        child = forks.start(TRAIN, folder=folder, **options)
        time.sleep(draw.uniform(0.1, seconds))  # not to wait for anything: the moment itself is what is tried
        child.kill()
        ending = forks.wait(child)
        # On a machine that became faster meanwhile it may have been over already.
        assert ending.was_killed or ending.status == 0, ending.log
    assert ended(forks.run(TRAIN, folder=folder, **options))["outcome"] == expected["outcome"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_at_any_effect_on_the_disk(forks: Forks, tmp_path: Path, variant: str, whole: Whole) -> None:
    options, draw, folder = VARIANTS[variant], random.Random(variant), str(tmp_path)
    expected, _ = whole(variant)
    num_effects, kills = len(expected["effects"]), 0
    for _ in range(3):
        # Also in what clears up after the kill before, which comes first.
        number = draw.choice((draw.randrange(8), draw.randrange(num_effects // 2)))
        ending = forks.run(TRAIN, folder=folder, kill_at=number, **options)
        assert ending.was_killed or ending.status == 0, ending.log
        kills += ending.was_killed
    assert kills
    assert ended(forks.run(TRAIN, folder=folder, **options))["outcome"] == expected["outcome"]


def test_the_training_that_is_killed_is_hard_to_resume(whole: Whole) -> None:
    """Patience runs out in mid-epoch, after the metric was best far from the end."""
    expected, _ = whole("no workers")
    steps = [int(name.partition("-")[2]) for name in expected["outcome"]["checkpoints"]]
    assert expected["step"] == max(steps) == 21, "stopped early, within an epoch of 13 steps"
    assert min(steps) == 9, "the best step is four evaluations back, and kept"
