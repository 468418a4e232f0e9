"""Publishing, swapping, deleting, recovering; kills at each effect are in tests/resume."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.best_model import publish_best
from llamarec.checkpoints.storage.discovery import best_in, latest
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import read_manifest
from llamarec.checkpoints.storage.publish import Staging, delete, publish
from llamarec.checkpoints.storage.recovery import recover
from llamarec.checkpoints.storage.verification import verify
from tests.checkpoints.factory import fill, fill_weights, make_run, manifest

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run", [100, 200])


@pytest.fixture(autouse=True)
def _no_observer() -> Iterator[None]:
    yield
    durable.observer = None


def _names(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.path.iterdir())


def test_every_file_is_listed_with_what_is_in_it(run: RunFolder) -> None:
    found = publish(run, manifest(300, 2, NOW), partial(fill, step=300))
    folder = run.checkpoint(300)
    assert sorted(found.files) == sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
    assert {name: durable.sha256_of(folder / name) for name in found.files} == {
        name: entry.sha256 for name, entry in found.files.items()
    }
    assert read_manifest(folder) == found


def test_a_folder_inside_is_listed_with_forward_slashes(run: RunFolder) -> None:
    def nested(staging: Staging) -> None:
        fill(staging, 300)
        (staging.path / "other/deep").mkdir(parents=True)
        (staging.path / "other/deep/x.bin").write_bytes(b"abc")

    assert "other/deep/x.bin" in publish(run, manifest(300, 2, NOW), nested).files
    assert verify(run.checkpoint(300)).health == "good"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_who_may_read_the_folder_may_read_the_files(run: RunFolder) -> None:
    def private(staging: Staging) -> None:
        fill(staging, 300)
        (staging.path / "adapter_model.safetensors").write_bytes(b"abc")
        (staging.path / "adapter_model.safetensors").chmod(0o600)

    publish(run, manifest(300, 2, NOW), private)
    folder = run.checkpoint(300)
    wanted = stat.S_IMODE(folder.stat().st_mode) & 0o666
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {wanted}


def test_everything_is_synced_before_the_name(run: RunFolder) -> None:
    effects: list[tuple[str, str]] = []
    durable.observer = lambda effect, path: effects.append((effect, path.name))
    publish(run, manifest(300, 2, NOW), partial(fill, step=300))
    durable.observer = None
    at = effects.index(("rename", "checkpoint-300"))
    synced = {name for effect, name in effects[:at] if effect == "fsync"}
    assert {path.name for path in run.checkpoint(300).iterdir()} <= synced
    written = [name for effect, name in effects[:at] if effect == "make"]
    assert written[-1] == "manifest.json"
    if os.name != "nt":
        assert effects[at - 1] == ("fsync", ".saving-checkpoint-300")
        assert effects[at + 1] == ("fsync", "run")


def test_saving_a_step_again_replaces_it(run: RunFolder) -> None:
    publish(run, manifest(200, 2, NOW, reason="signal"), partial(fill, step=250))
    verdict = verify(run.checkpoint(200))
    assert verdict.health == "good"
    assert verdict.manifest is not None
    assert (verdict.manifest.sequence, verdict.manifest.reason) == (2, "signal")
    assert _names(run) == ["checkpoint-100", "checkpoint-200"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("bug")])
@pytest.mark.parametrize("step", [200, 300], ids=["again", "new"])
def test_a_failure_leaves_everything_as_it_was(run: RunFolder, error: Exception, step: int) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    def failing(staging: Staging) -> None:
        staging.write("adapter_model.bin", b"abc")
        raise error

    with pytest.raises(type(error)):
        publish(run, manifest(step, 2, NOW), failing)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("at", ["final rename", "first rename"])
def test_a_rename_that_fails(run: RunFolder, at: str) -> None:
    before = read_manifest(run.checkpoint(200))

    def fail(effect: str, path: Path) -> None:
        wanted = run.checkpoint(200) if at == "final rename" else run.replaced(200)
        if effect == "rename" and path == wanted:
            durable.observer = None
            raise PermissionError(errno.EACCES, "held by a scanner", str(path))

    durable.observer = fail
    with pytest.raises(PermissionError):
        publish(run, manifest(200, 2, NOW), partial(fill, step=200))
    assert read_manifest(run.checkpoint(200)) == before
    assert verify(run.checkpoint(200)).health == "good"
    assert _names(run) == ["checkpoint-100", "checkpoint-200"]


def test_deleting(run: RunFolder) -> None:
    delete(run, 100)
    assert _names(run) == ["checkpoint-200"]


LEFT = {
    "an unfinished save": (".saving-checkpoint-300", False, "cleared"),
    "a save that was killed before its name": (".saving-checkpoint-300", True, "finished"),
    "a deletion": (".deleting-checkpoint-300", True, "cleared"),
    "the old one of a swap": (".replaced-checkpoint-300", True, "put back"),
    "the old one of a swap that was over": (".replaced-checkpoint-200", True, "cleared"),
    "a save of a step that is there": (".saving-checkpoint-200", True, "cleared"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_a_kill_left(run: RunFolder, name: str) -> None:
    folder, complete, done = LEFT[name]
    step = int(folder.rpartition("-")[2])
    other = make_run(run.path.parent / "other", [step])
    other.checkpoint(step).rename(run.path / folder)
    if not complete:
        (run.path / folder / "manifest.json").unlink()
    said = recover(run)
    assert len(said) == 1
    assert done in said[0]
    kept = done in ("finished", "put back")
    assert _names(run) == ["checkpoint-100", "checkpoint-200", *(["checkpoint-300"] if kept else [])]
    choice = latest(run)
    assert choice is not None
    assert choice.passed_over == ()
    assert recover(run) == []


def test_a_swap_that_was_killed_between_its_renames(run: RunFolder) -> None:
    run.checkpoint(200).rename(run.replaced(200))
    other = make_run(run.path.parent / "other", [100, 150, 200])
    other.checkpoint(200).rename(run.saving(200))
    recover(run)
    found = read_manifest(run.checkpoint(200))
    assert found is not None
    assert found.sequence == 2
    assert _names(run) == ["checkpoint-100", "checkpoint-200"]


def test_the_best_model_is_replaced_whole(run: RunFolder) -> None:
    for step in (100, 200):
        publish_best(run, manifest(step, step, NOW, best=step), partial(fill_weights, step=step))
        found = best_in(run)
        assert found is not None
        assert found.step == step
        assert all(durable.sha256_of(run.path / name) == entry.sha256 for name, entry in found.files.items())
    assert not run.best_staging.exists()


def test_an_adapter_in_another_format_takes_the_old_one_away(run: RunFolder) -> None:
    publish_best(run, manifest(100, 1, NOW), partial(fill_weights, step=100))

    def other(staging: Staging) -> None:
        staging.write("adapter_config.json", b"{}")
        staging.write("adapter_model.safetensors", b"abc")

    publish_best(run, manifest(200, 2, NOW), other)
    assert not (run.path / "adapter_model.bin").exists()


def test_recovering_where_nothing_is(tmp_path: Path) -> None:
    assert recover(RunFolder(tmp_path / "nothing")) == []
