"""An empty disk, a damaged one and one that is behind: the newest good checkpoint comes from the mirror."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llamarec.checkpoints.backup.copies import backup
from llamarec.checkpoints.backup.stores import UnreachableError, open_store
from llamarec.checkpoints.mirror.fetching import bring_newest, one_at_a_time
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import read_manifest
from llamarec.checkpoints.storage.restart import mark_superseded
from llamarec.checkpoints.storage.verification import verify
from llamarec.errors import CheckpointError
from tests.checkpoints.factory import damage, make_run
from tests.checkpoints.mirror.bucket import BucketFileSystem, use_empty
from tests.checkpoints.mirror.sweep import QUICK

ADDRESS = "bucket://host/run"


@pytest.fixture(autouse=True)
def _bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_empty(tmp_path, monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Saved at 100, 200 (the best) and 300; all of it mirrored."""
    run = make_run(tmp_path / "run")
    for step in run.steps():
        backup(run.checkpoint(step), ADDRESS)
    return run


def _fetched(run: RunFolder) -> tuple[list[int], list[str], list[str]]:
    """Steps there now, and what was said and warned."""
    said, warned = list[str](), list[str]()
    with one_at_a_time(run):
        bring_newest(open_store(ADDRESS), run, say=said.append, warn=warned.append, pauses=QUICK)
    return run.steps(), said, warned


def test_an_empty_disk_gets_the_newest_and_the_best_and_no_other(run: RunFolder, tmp_path: Path) -> None:
    read = set[str]()
    BucketFileSystem.observer = lambda what, key: read.add(key) if what == "get" else None
    other = RunFolder(tmp_path / "other")
    steps, said, warned = _fetched(other)

    assert steps == [200, 300]
    assert all(verify(other.checkpoint(step)).health == "good" for step in steps)
    assert "checkpoint-300: downloaded and verified" in said[0]
    assert "(here: nothing)" in said[0]
    assert "(the best so far)" in said[1]
    assert not warned
    # Of the third one, only the manifest.
    assert {key.rpartition("/")[2] for key in read if "checkpoint-100" in key} == {"manifest.json"}


def test_nothing_is_downloaded_where_the_disk_is_as_new(run: RunFolder) -> None:
    assert _fetched(run) == ([100, 200, 300], [], [])


def test_a_disk_that_is_behind_gets_the_newer_one(run: RunFolder, tmp_path: Path) -> None:
    steps, said, _ = _fetched(make_run(tmp_path / "other", (100, 200)))
    assert steps == [100, 200, 300]
    assert "(here: checkpoint-200)" in said[0]


def test_a_damaged_checkpoint_is_replaced_from_the_mirror(run: RunFolder) -> None:
    damage(run.checkpoint(300))
    steps, _, _ = _fetched(run)
    assert steps == [100, 200, 300]
    assert verify(run.checkpoint(300)).health == "good"


@pytest.mark.parametrize("name", ["optimizer.pt", "manifest.json"])
def test_a_damaged_copy_is_passed_over_by_name(run: RunFolder, tmp_path: Path, name: str) -> None:
    damage(tmp_path / "objects" / "run" / "checkpoint-300", name)
    steps, _, warned = _fetched(RunFolder(tmp_path / "other"))
    assert steps == [200]
    assert "passed over checkpoint-300" in warned[0]


def test_a_mirror_that_does_not_answer_is_refused_only_where_nothing_is_here(run: RunFolder, tmp_path: Path) -> None:
    def refuse(what: str, key: str) -> None:
        raise OSError("503 Slow Down")

    BucketFileSystem.observer = refuse
    with pytest.raises(UnreachableError, match=r"cannot be reached, and .* has no checkpoint"):
        _fetched(RunFolder(tmp_path / "other"))
    steps, said, warned = _fetched(run)
    assert (steps, said) == ([100, 200, 300], [])
    assert "whether it has a newer checkpoint than checkpoint-300 is unknown" in warned[0]


def test_a_store_that_answers_at_the_second_try_is_enough(run: RunFolder, tmp_path: Path) -> None:
    failed = set[str]()

    def refuse_once(what: str, key: str) -> None:
        if what == "get" and key.endswith("optimizer.pt") and key not in failed:
            failed.add(key)
            raise TimeoutError("timed out")

    BucketFileSystem.observer = refuse_once
    steps, _, warned = _fetched(RunFolder(tmp_path / "other"))
    assert (steps, warned) == ([200, 300], [])
    assert len(failed) == 2


def test_another_run_is_refused(run: RunFolder, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", (100,))
    found = read_manifest(other.checkpoint(100))
    assert found is not None
    (other.checkpoint(100) / "manifest.json").write_bytes(replace(found, run_id="run-2").to_bytes())
    with pytest.raises(CheckpointError, match=r"holds the checkpoints of another run"):
        _fetched(other)


def test_a_run_that_was_given_up_here_does_not_come_back(run: RunFolder) -> None:
    mark_superseded(run, run.steps())
    steps, said, _ = _fetched(run)
    assert (steps, said) == ([100, 200, 300], [])
