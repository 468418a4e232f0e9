"""A few cases of `make fuzz`, by fixed seeds: those that found something, and one of each mutation."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.cases import CHANGED, fuzz, run_case
from tests.fuzz.checks import BrokenPromiseError, check
from tests.fuzz.inputs import change_parquet_table, change_table, run_input_case
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [1008, 20036])
def test_what_was_found_once_between_the_stages(seed: int, tmp_path: Path) -> None:
    """A test table whose lists differ in length ended the report; a list in the place of figures, the export."""
    run_input_case(seed, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [change_table, change_parquet_table])
def test_odd_tables_are_read_or_refused(case: Any, tmp_path: Path) -> None:
    for seed in range(4):
        (tmp_path / str(seed)).mkdir()
        case(random.Random(seed), tmp_path / str(seed))


def test_a_panic_of_polars_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no `Exception`, and would pass every `except` but its own."""
    import polars as pl

    from llamarec.errors import DataError
    from llamarec.recommend.requests import read_requests

    def panic(*_: Any, **__: Any) -> Any:
        raise pl.exceptions.PanicException("index out of bounds")

    path = tmp_path / "users.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setattr(pl, "read_parquet", panic)
    with pytest.raises(DataError, match="index out of bounds"):
        read_requests(path)
