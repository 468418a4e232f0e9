"""A mirror that is kept: everything arrives, retention follows, and a store that fails costs nothing but the mirror."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest

from llamarec.checkpoints.backup.contents import COPYING
from llamarec.checkpoints.backup.stores import open_store
from llamarec.checkpoints.mirror.inventory import inventory_of
from llamarec.checkpoints.mirror.keeper import Continued, MirrorKeeper
from llamarec.checkpoints.storage.layout import MANIFEST, RunFolder
from llamarec.checkpoints.storage.publish import delete, publish
from tests.checkpoints.factory import fill, make_run, manifest
from tests.checkpoints.mirror.bucket import BucketFileSystem, use_empty
from tests.checkpoints.mirror.sweep import QUICK, _created

RUN_ID = "run-1"


@pytest.fixture(autouse=True)
def _bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_empty(tmp_path, monkeypatch)


@pytest.fixture(params=["path", "file://", "memory://", "bucket://"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    local, memory = tmp_path / "mirror", f"memory://{uuid.uuid4().hex}"
    known = {"path": str(local), "file://": local.as_uri(), "memory://": memory, "bucket://": "bucket://host/run"}
    yield known[request.param]
    if fsspec.filesystem("memory").exists(memory):
        fsspec.filesystem("memory").rm(memory, recursive=True)


def _keeper(
    address: str, run: RunFolder, said: list[str], *, limit: int | None = 3, restart: bool = False, first: int = 0
) -> MirrorKeeper:
    keeper = MirrorKeeper(open_store(address), run, limit=limit, warn=said.append, pauses=QUICK)
    keeper.begin(Continued(run_id=RUN_ID, first_sequence=first, is_restart=restart))
    return keeper


def _steps(address: str) -> list[int]:
    return sorted(one.manifest.step for one in inventory_of(open_store(address)).checkpoints)


def _save(run: RunFolder, step: int, sequence: int, best: int | None = None) -> None:
    publish(run, manifest(step, sequence, _created(sequence), best=best), partial(fill, step=step))


def test_what_is_here_and_what_is_published_arrives_and_retention_follows(tmp_path: Path, address: str) -> None:
    run, said = make_run(tmp_path / "run", (100, 200), best=100), list[str]()
    keeper = _keeper(address, run, said, limit=1, first=2)
    for number, step in enumerate((300, 400), start=2):
        _save(run, step, number, best=100)
        keeper.note(step)
    keeper.finish()

    # The best one stays, here as there.
    assert _steps(address) == [100, 400]
    assert not said
    assert not keeper.behind


def test_what_is_deleted_here_before_its_turn_is_not_owed(tmp_path: Path) -> None:
    run, said = make_run(tmp_path / "run", (100, 200), best=None), list[str]()
    keeper = MirrorKeeper(open_store("bucket://host/run"), run, limit=1, warn=said.append, pauses=QUICK)
    keeper.note(100)
    delete(run, 100)
    keeper.begin(Continued(run_id=RUN_ID, first_sequence=2, is_restart=False))
    keeper.finish()

    assert _steps("bucket://host/run") == [200]
    assert not said


def test_the_one_that_is_being_copied_is_held(tmp_path: Path) -> None:
    run, held = make_run(tmp_path / "run", (100,), best=None), set[int | None]()
    keeper = MirrorKeeper(open_store("bucket://host/run"), run, limit=1, warn=print, pauses=QUICK)
    BucketFileSystem.observer = lambda what, key: held.add(keeper.held) if what == "put" else None
    keeper.begin(Continued(run_id=RUN_ID, first_sequence=1, is_restart=False))
    keeper.finish()

    assert held == {100}
    assert keeper.held is None


def test_a_store_that_fails_is_said_once_and_catches_up(tmp_path: Path) -> None:
    run, said, failures = make_run(tmp_path / "run", (100,), best=None), list[str](), 3

    def refuse(what: str, key: str) -> None:
        nonlocal failures
        if what == "put" and failures:
            failures -= 1
            raise TimeoutError("504 from the store")

    BucketFileSystem.observer = refuse
    keeper = _keeper("bucket://host/run", run, said, first=1)
    deadline = time.monotonic() + 60
    while keeper.behind and time.monotonic() < deadline:
        time.sleep(0.01)
    keeper.finish()

    assert _steps("bucket://host/run") == [100]
    assert [text.partition(":")[0] for text in said] == ["WARNING", "note"]
    assert "504 from the store" in said[0]


def test_a_mirror_that_stays_behind_is_said_with_what_to_type(tmp_path: Path) -> None:
    run, said = make_run(tmp_path / "run", (100,), best=None), list[str]()

    def refuse(what: str, key: str) -> None:
        raise OSError("503 Slow Down")

    BucketFileSystem.observer = refuse
    keeper = _keeper("bucket://host/run", run, said, first=1)
    keeper.note(100)
    started = time.monotonic()
    keeper.finish()

    assert time.monotonic() - started < QUICK.silence
    assert len(said) == 2
    assert "is behind: it lacks checkpoint-100" in said[1]
    assert f"llamarec checkpoints backup {run.path} ADDRESS" in said[1]
    assert keeper.behind


@pytest.mark.parametrize("name", ["optimizer.pt", MANIFEST, "adapter_model.bin"])
def test_an_upload_that_is_cut_in_half_is_noticed_and_sent_again(tmp_path: Path, name: str) -> None:
    run, said = make_run(tmp_path / "run", (100,), best=None), list[str]()
    BucketFileSystem.torn = {name}
    keeper = _keeper("bucket://host/run", run, said, first=1)
    keeper.finish()

    assert "reads back differently" in said[0]
    (found,) = inventory_of(open_store("bucket://host/run")).checkpoints
    assert all(found.store.entry(one) == entry for one, entry in found.manifest.files.items())


def test_a_listing_that_is_late_costs_nothing(tmp_path: Path) -> None:
    run, said = make_run(tmp_path / "run", (100,), best=None), list[str]()
    files = [path.name for path in run.checkpoint(100).iterdir()]
    BucketFileSystem.unlisted = {f"checkpoint-100/{name}" for name in [*files, COPYING]}
    keeper = _keeper("bucket://host/run", run, said, first=1)
    keeper.finish()

    assert _steps("bucket://host/run") == [100]
    assert not said


def test_what_a_kill_left_is_cleared(tmp_path: Path) -> None:
    run, said = make_run(tmp_path / "run", (200,), best=None), list[str]()
    store = open_store("bucket://host/run")
    store.below("checkpoint-100").write(COPYING, [b"x"])
    store.below("checkpoint-100").write("optimizer.pt", [b"half"])
    _keeper("bucket://host/run", run, said, first=1).finish()

    assert store.folders() == ["checkpoint-200"]
    assert not said


def test_another_run_is_never_replaced(tmp_path: Path, address: str) -> None:
    other = make_run(tmp_path / "other", (100,), best=None)
    _keeper(address, other, [], first=1).finish()
    run, said = make_run(tmp_path / "run", (100, 200), best=None), list[str]()
    keeper = MirrorKeeper(open_store(address), run, limit=1, warn=said.append, pauses=QUICK)
    keeper.begin(Continued(run_id="run-2", first_sequence=2, is_restart=False))
    keeper.finish()

    assert _steps(address) == [100]
    assert "holds the checkpoints of another run" in said[0]
    assert keeper.behind


def test_after_a_restart_the_earlier_run_does_not_count(tmp_path: Path, address: str) -> None:
    _keeper(address, make_run(tmp_path / "other", (500,), best=None), [], first=1).finish()
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    keeper = MirrorKeeper(open_store(address), run, limit=3, warn=print, pauses=QUICK)
    keeper.begin(Continued(run_id="run-2", first_sequence=1, is_restart=True))
    keeper.finish()

    found = inventory_of(open_store(address))
    assert [one.manifest.step for one in found.checkpoints] == [500]
    assert not found.of_this_run


def test_a_step_that_is_saved_again_replaces_its_copy(tmp_path: Path, address: str) -> None:
    run, said = make_run(tmp_path / "run", (100,), best=None), list[str]()
    keeper = _keeper(address, run, said, first=1)
    _save(run, 100, 7)
    keeper.note(100)
    keeper.finish()

    (found,) = inventory_of(open_store(address)).checkpoints
    assert found.raw == (run.checkpoint(100) / MANIFEST).read_bytes()
    assert not said
