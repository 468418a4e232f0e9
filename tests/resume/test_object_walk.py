"""What a walk looks into, and that libraries beside a program do not fill its limits."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from llamarec.checkpoints.trainer.samples.generator_kinds import is_generator
from llamarec.checkpoints.trainer.samples.object_walk import ObjectWalk

CODE = """
import random
OWN = random.Random(3)
class Noise:
    def __init__(self):
        self.held = random.Random(4)
    def __call__(self):
        return OWN.random() + self.held.random()
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("project", {".held", "@{name}.OWN"}),
        ("lib/python3/site-packages", {".held"}),
        ("packages_of_a_target", {".held"}),
    ],
    ids=["program", "installed", "pip install --target"],
)
def test_globals_are_looked_at_in_a_program_and_objects_everywhere(
    folder: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"noise_of_{Path(folder).name.replace('-', '_')}"
    place = tmp_path / folder
    place.mkdir(parents=True)
    if folder == "packages_of_a_target":
        (place / "noise-1.0.dist-info").mkdir()
    (place / f"{name}.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(place))
    noise: Callable[[], float] = importlib.import_module(name).Noise()

    walk = ObjectWalk(noise, is_generator)

    assert set(walk.found) == {one.format(name=name) for one in expected}
    monkeypatch.delitem(sys.modules, name)


def test_a_table_of_a_library_leads_to_few_objects() -> None:
    """Its functions name thousands, and what the program holds behind it would be left out."""
    own = random.Random(5)
    walk = ObjectWalk({"table": pl.DataFrame({"item": [1]}), "rows": pl.Series([1]), "own": own}, is_generator)

    assert list(walk.found.values()) == [own]

    few = ObjectWalk({"table": pl.DataFrame({"item": [1]}), "own": own}, is_generator, max_objects=50)
    assert few.not_looked_at == []


class Keeps:
    """Keeps the last error, as a callback that tries again does."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _raised(depth: int, of_the_call: random.Random) -> ValueError:
    try:
        if depth:
            raise _raised(depth - 1, of_the_call)
        raise ValueError("no answer", random.Random(7))
    except ValueError as error:
        return error


def test_an_error_that_is_kept_does_not_lead_into_the_calls_it_came_through() -> None:
    """Their variables are no state of the program, and through them a walk would reach everything."""
    error = _raised(3, random.Random(6))
    holder = Keeps(ExceptionGroup("both", [error, KeyError("none")]))

    walk = ObjectWalk(holder, is_generator, max_objects=100)

    assert list(walk.found.values()) == [error.args[1]]
    assert walk.not_looked_at == []
