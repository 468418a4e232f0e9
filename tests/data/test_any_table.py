"""Any table of interactions, in any dialect, gives the same prepared set, byte for byte, or is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data import dialects
from tests.data.dialects import HAS_PANDAS, Interactions
from tests.fuzz.checks import BrokenPromiseError
from tests.fuzz.dialects import check_dialects


def test_pandas_is_among_the_writers() -> None:
    if not HAS_PANDAS:
        pytest.skip("pandas is not installed: its tables are not tried")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)
@given(draw=st.randoms(use_true_random=False))
def test_every_dialect_gives_the_same_set(draw: Random, tmp_path: Path) -> None:
    """`make fuzz` tries many more."""
    shutil.rmtree(tmp_path / "tables", ignore_errors=True)
    check_dialects(draw, tmp_path / "tables", num_dialects=4)


def test_hardly_any_dialect_is_refused(tmp_path: Path) -> None:
    """Otherwise the others would prove nothing. A date whose day or month could come first may be."""
    num_refused = sum(check_dialects(Random(seed), tmp_path / str(seed), num_dialects=4) for seed in range(8))
    assert num_refused <= 3


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_another_set_is_found(changed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user, an item or a time that is not what was written."""
    rows = [(f"u{n % 2}", f"i{n % 3}", (1_500_000_000 + n) * dialects.MICROSECONDS) for n in range(9)]
    table = Interactions(rows, {f"i{n}": f"Film {n}" for n in range(3)}, dialects.MICROSECONDS, has_numbers=False)
    wrong: list[str | int] = [*rows[4]]
    wrong[changed] = "i2" if changed < 2 else rows[4][2] - 10 * dialects.MICROSECONDS
    others = [*rows[:4], (str(wrong[0]), str(wrong[1]), int(wrong[2])), *rows[5:]]
    monkeypatch.setattr("tests.fuzz.dialects.draw_interactions", lambda _: table)
    write = dialects.write
    monkeypatch.setattr(
        "tests.fuzz.dialects.write",
        lambda table, draw, folder: write(Interactions(others, table.titles, table.step, False), draw, folder),
    )
    with pytest.raises(BrokenPromiseError, match="in the place of"):
        check_dialects(Random(0), tmp_path, num_dialects=3)
