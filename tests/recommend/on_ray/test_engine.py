"""Workers on Ray answer as this process does, also where they are killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from llamarec.errors import DisagreementError, PeerLostError
from llamarec.recommend import batch, ray_engine
from llamarec.recommend.batch import BatchJob
from llamarec.recommend.engines import LocalEngine
from llamarec.recommend.ray_engine import RayEngine
from llamarec.recommend.ray_worker import Loaded
from llamarec.recommend.recommender import Recommender
from llamarec.recommend.requests import Request
from tests.recommend.on_ray.conftest import USERS, needs_ray

pytestmark = [*needs_ray, pytest.mark.skipif(os.name == "nt", reason="processes are stopped by signals")]


class _Killed(BaseException):
    """As a kill: nothing after it runs."""


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_AT_ONCE", 4)


def _process(engine: RayEngine, worker: int) -> int:
    loaded = engine.workers[worker]
    assert isinstance(loaded, Loaded)
    return loaded.process


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_the_file_is_the_local_one_though_a_worker_is_killed_in_the_middle(
    recommender: Recommender, two: tuple[RayEngine, list[str]], tmp_path: Path, name: str
) -> None:
    requests = [*USERS, Request("nobody", user="nobody"), Request("mine", history=("i3", "FILM <4> & more"))]
    local = BatchJob(LocalEngine(recommender), requests, tmp_path / "local" / name, k=3).run()
    engine, said = two
    process, told = _process(engine, 1), list[int]()

    def kill(done: int) -> None:
        told.append(done)
        if done == 0:
            # It takes its blocks, the second of all among them, and does not answer.
            os.kill(process, signal.SIGSTOP)
        if done == 4:
            os.kill(process, signal.SIGKILL)

    done = BatchJob(engine, requests, tmp_path / "ray" / name, k=3).run(progress=kill)

    assert done == local
    assert told == [0, 4, 8, 12, 16, 20, 22]
    assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert [path.name for path in (tmp_path / "ray").iterdir()] == [name]
    assert "a worker of Ray has died; it is replaced, and its users are answered again" in said


def test_both_workers_are_killed_and_replaced(
    recommender: Recommender, two: tuple[RayEngine, list[str]], tmp_path: Path
) -> None:
    engine, _ = two
    BatchJob(LocalEngine(recommender), USERS, tmp_path / "local.jsonl", k=3).run()

    def kill(done: int) -> None:
        if done == 0:
            for worker in (0, 1):
                os.kill(_process(engine, worker), signal.SIGKILL)

    BatchJob(engine, USERS, tmp_path / "ray.jsonl", k=3).run(progress=kill)
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()


def test_what_one_engine_began_the_other_continues(
    recommender: Recommender, two: tuple[RayEngine, list[str]], tmp_path: Path
) -> None:
    local, (on_ray, _) = LocalEngine(recommender), two
    BatchJob(local, USERS, tmp_path / "whole.jsonl", k=3).run()

    def kill(done: int) -> None:
        if done == 8:
            raise _Killed

    for name, first, second in (("a.jsonl", local, on_ray), ("b.jsonl", on_ray, local), ("c.jsonl", on_ray, on_ray)):
        output = tmp_path / name
        with pytest.raises(_Killed):
            BatchJob(first, USERS, output, k=3).run(progress=kill)
        assert not output.exists()

        assert BatchJob(second, USERS, output, k=3).run().num_before == 8
        assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_block_that_ends_its_workers_is_not_tried_for_ever(
    two: tuple[RayEngine, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_TRIES", 1)
    engine, _ = two
    process = _process(engine, 1)

    def kill(done: int) -> None:
        if done in (0, 4):
            os.kill(process, signal.SIGKILL if done else signal.SIGSTOP)

    with pytest.raises(PeerLostError, match=r"(?s)a block of users ended 1 workers.*The same command continues"):
        BatchJob(engine, USERS, tmp_path / "a.jsonl", k=3).run(progress=kill)


def test_workers_with_different_runs_are_refused(two: tuple[RayEngine, list[str]]) -> None:
    engine, _ = two
    loaded = engine.workers[1]
    assert isinstance(loaded, Loaded)
    other = loaded._replace(host="other", fingerprint="0" * 64)
    with pytest.raises(DisagreementError, match=r"(?s)differ in the fingerprint of the run.*other: 000.*file system"):
        engine._note_loaded(engine._workers[1], other)
