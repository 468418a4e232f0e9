"""The benchmark of workers on Ray, in a small form."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from benchmarks import recommend_ray
from tests.recommend.conftest import finished

__all__ = ["finished"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (python make.py test-ray)")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_engines_write_the_same(finished: Path, tmp_path: Path) -> None:
    run = finished / "experiments" / "llm" / "shop"
    recommend_ray.main([str(run), "--users", "130", "--rounds", "1", "--output", str(tmp_path / "a.md")])
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert [line.split(" | ")[0] for line in text.splitlines()[-3:]] == [
        "| this process",
        "| Ray, 1 worker",
        "| Ray, 2 workers",
    ]
