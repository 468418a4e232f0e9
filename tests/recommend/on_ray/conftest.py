"""Ray, where it is installed. Its clusters here have two workers and an object store of 100 MB."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from llamarec.recommend.ray_cluster import RayConfig
from llamarec.recommend.ray_engine import RayEngine, ray_engine
from llamarec.recommend.requests import Request
from tests.recommend.conftest import experiment, finished, recommender, shop

__all__ = ["experiment", "finished", "recommender", "shop"]

USERS = [Request(f"u{user}", user=f"u{user}") for user in range(20)]
TWO = RayConfig(num_workers=2, threads_per_worker=1)

Engines = Callable[..., AbstractContextManager[RayEngine]]

needs_ray = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray is not installed (python make.py test-ray)"
    ),
    # Ray leaves sockets and processes to the interpreter's end.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.slow,
]


@pytest.fixture(scope="session")
def run(finished: Path) -> Path:
    """The folder of a trained run."""
    return finished / "experiments" / "llm" / "shop"


@pytest.fixture(scope="session")
def engines(run: Path) -> Engines:
    """Workers on Ray that have loaded the run: `engines(TWO, say=lines.append)`."""
    return partial(ray_engine, run=str(run), experiment_root=Path("experiments"), device="cpu", only_new=False)


@pytest.fixture(scope="session")
def two_workers(engines: Engines) -> Iterator[tuple[RayEngine, list[str]]]:
    """Two workers, and the lines that are said."""
    said: list[str] = []
    with engines(TWO, say=said.append) as engine:
        yield engine, said


@pytest.fixture
def two(two_workers: tuple[RayEngine, list[str]]) -> tuple[RayEngine, list[str]]:
    """The same, whole again after the worker that a test has killed, and with nothing said yet."""
    engine, said = two_workers
    engine.wait_until_loaded()
    said.clear()
    return engine, said
