"""A few cases of `make fuzz`, by fixed seeds: those that found something, and one of each mutation."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.cases import CHANGED, fuzz, run_case
from tests.fuzz.checks import BrokenPromiseError, check
from tests.fuzz.mutations import MUTATIONS, Mutation, change_json

# Deep folders; control characters; weights that are a list.
FOUND = (3, 25, 51, 81)
KINDS = sorted({mutation.__name__: mutation for mutation in MUTATIONS}.items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_once(seed: int, tmp_path: Path) -> None:
    run_case(seed, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "mutation"), KINDS, ids=[name for name, _ in KINDS])
def test_each_mutation(name: str, mutation: Mutation, tmp_path: Path) -> None:
    from tests.checkpoints.factory import make_run

    for seed in range(4):
        run = make_run(tmp_path / str(seed) / "run")
        mutation(random.Random(seed), run.checkpoint(CHANGED))
        check(run, CHANGED, mutation, commands=False)


@pytest.mark.slow
def test_cases_run_in_a_process_of_their_own() -> None:
    kinds, wrong = fuzz(1000, seconds=60, cases=3)
    assert sum(kinds.values()) == 3
    assert not wrong


def test_a_broken_promise_is_found(tmp_path: Path) -> None:
    """Otherwise the cases would prove nothing."""
    from tests.checkpoints.factory import damage, make_run

    run = make_run(tmp_path / "run")
    damage(run.checkpoint(100))
    with pytest.raises(BrokenPromiseError, match="another one is not good"):
        check(run, CHANGED, change_json, commands=False)
