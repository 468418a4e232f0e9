"""Copies: whole or not at all, verified, never over something else, and back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from llamarec.checkpoints.backup.contents import COPYING
from llamarec.checkpoints.backup.copies import backup, restore
from llamarec.checkpoints.backup.stores import Store, open_store
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.layout import MANIFEST, RunFolder
from llamarec.checkpoints.storage.lock import RunLock
from llamarec.checkpoints.storage.manifest import FileEntry, read_manifest
from llamarec.checkpoints.storage.verification import verify
from llamarec.errors import CheckpointError, LockedError, SpaceError
from tests.checkpoints.factory import damage, make_plain_run, make_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run" / "checkpoints")


@pytest.fixture
def memory() -> Iterator[str]:
    """An address of its own."""
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(url):
        filesystem.rm(url, recursive=True)


@pytest.fixture(params=["path", "file://", "memory://"])
def destination(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> str:
    """A local folder, the same as an address, and what is no folder at all."""
    local = tmp_path / "copies"
    return {"path": str(local), "file://": local.as_uri(), "memory://": memory}[request.param]


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def _names(url: str) -> list[str]:
    return open_store(url).names()


def test_a_copy_comes_back_byte_by_byte(run: RunFolder, destination: str, tmp_path: Path) -> None:
    copy = backup(run.checkpoint(200), destination)
    assert copy.endswith("/checkpoint-200")
    other = RunFolder(tmp_path / "other")
    assert restore(copy, other) == other.checkpoint(200)
    assert verify(other.checkpoint(200)).health == "good"
    assert _contents(other.checkpoint(200)) == _contents(run.checkpoint(200))
    assert not other.leftovers()
    assert COPYING not in _names(copy)


def test_of_several_copies_the_newest_save_is_restored(tmp_path: Path, destination: str) -> None:
    # Saved later, with a lower step: a resume from step 100 went on to 150.
    run = make_run(tmp_path / "run", (100, 200, 150))
    for step in (200, 150):
        backup(run.checkpoint(step), destination)
    assert restore(destination, RunFolder(tmp_path / "other")).name == "checkpoint-150"


def test_an_intact_copy_stays_and_a_damaged_one_is_made_anew(run: RunFolder, tmp_path: Path) -> None:
    copy = Path(backup(run.checkpoint(100), str(tmp_path / "copies")))
    before = copy.stat().st_ino
    assert backup(run.checkpoint(100), str(tmp_path / "copies")) == str(copy)
    assert copy.stat().st_ino == before
    damage(copy)
    backup(run.checkpoint(100), str(tmp_path / "copies"))
    assert _contents(copy) == _contents(run.checkpoint(100))


def test_a_damaged_copy_elsewhere_is_made_anew(run: RunFolder, memory: str) -> None:
    copy = backup(run.checkpoint(100), memory)
    fsspec.filesystem("memory").pipe_file(f"{copy}/optimizer.pt", b"other")
    backup(run.checkpoint(100), memory)
    assert open_store(copy).entry("optimizer.pt") == _entry(run, "optimizer.pt")


def test_a_different_checkpoint_is_not_overwritten(run: RunFolder, destination: str, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", (100,), newest_minutes_ago=500)
    copy = backup(other.checkpoint(100), destination)
    with pytest.raises(CheckpointError, match=r"checkpoint-100 already exists") as caught:
        backup(run.checkpoint(100), destination)
    assert "step 100 of run run-1, saved" in str(caught.value)
    assert open_store(copy).read(MANIFEST) == (other.checkpoint(100) / MANIFEST).read_bytes()


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.bin", "trainer_state.json"])
def test_a_damaged_checkpoint_is_refused_by_the_files_name(run: RunFolder, destination: str, name: str) -> None:
    damage(run.checkpoint(100), name)
    with pytest.raises(CheckpointError, match=rf"{name} has changed since the save"):
        backup(run.checkpoint(100), destination)
    assert _names(f"{destination}/checkpoint-100") == []


def test_an_incomplete_checkpoint_is_refused(run: RunFolder, destination: str) -> None:
    (run.checkpoint(100) / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.pt is missing"):
        backup(run.checkpoint(100), destination)


class _KilledError(BaseException):
    """Like Ctrl-C: nothing catches it by accident."""


def test_a_local_copy_that_is_interrupted_anywhere_leaves_none(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effects: list[str] = []
    monkeypatch.setattr(durable, "observer", lambda effect, path: effects.append(effect))
    backup(run.checkpoint(100), str(tmp_path / "counted"))
    published = effects.index("rename")
    assert published > 20
    for at in range(published + 1):
        seen: list[str] = []

        def stop(effect: str, _: Path, at: int = at, seen: list[str] = seen) -> None:
            seen.append(effect)
            if len(seen) == at + 1:
                raise _KilledError

        monkeypatch.setattr(durable, "observer", stop)
        folder = tmp_path / f"copies-{at}"
        with pytest.raises(_KilledError):
            backup(run.checkpoint(100), str(folder))
        copies = RunFolder(folder)
        assert copies.checkpoints() == []
        assert copies.leftovers() == []


def test_what_a_kill_left_is_in_nobodys_way(run: RunFolder, tmp_path: Path) -> None:
    copies = RunFolder(tmp_path / "copies")
    copies.saving(100).mkdir(parents=True)
    (copies.saving(100) / "optimizer.pt").write_bytes(b"half")
    backup(run.checkpoint(100), str(copies.path))
    assert copies.leftovers() == []
    assert verify(copies.checkpoint(100)).health == "good"


@pytest.mark.parametrize("at", [0, 1, 3, 7, 8])
def test_a_copy_elsewhere_that_is_interrupted_leaves_none(
    run: RunFolder, memory: str, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    write, count = Store.write, 0

    def torn(store: Store, name: str, chunks: list[bytes]) -> FileEntry:
        nonlocal count
        count += 1
        if count == at + 1:
            write(store, name, [b"half"])
            raise _KilledError
        return write(store, name, chunks)

    monkeypatch.setattr(Store, "write", torn)
    with pytest.raises(_KilledError):
        backup(run.checkpoint(100), memory)
    assert _names(memory) == []


def test_a_copy_whose_process_was_killed_is_no_copy_until_it_is_made_again(
    run: RunFolder, memory: str, tmp_path: Path
) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file(f"{memory}/checkpoint-100/{COPYING}", b"x")
    filesystem.pipe_file(f"{memory}/checkpoint-100/optimizer.pt", b"half")
    for source, problem in ((memory, "no checkpoint in"), (f"{memory}/checkpoint-100", "is not a checkpoint")):
        with pytest.raises(CheckpointError, match=problem):
            restore(source, RunFolder(tmp_path / "other"))
    restore(backup(run.checkpoint(100), memory), RunFolder(tmp_path / "other"))


def test_what_arrives_differently_is_noticed(run: RunFolder, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Store.entry

    def other(store: Store, name: str) -> FileEntry:
        found = entry(store, name)
        return replace(found, sha256="0" * 64) if store.url.startswith("memory") and name == "scheduler.pt" else found

    monkeypatch.setattr(Store, "entry", other)
    with pytest.raises(CheckpointError, match=r"scheduler\.pt reads back differently"):
        backup(run.checkpoint(100), memory)
    assert _names(memory) == []


def test_two_do_not_copy_into_one_folder_at_a_time(run: RunFolder, tmp_path: Path) -> None:
    with RunLock(RunFolder(tmp_path / "copies")), pytest.raises(LockedError, match=r"another process writes to"):
        backup(run.checkpoint(100), str(tmp_path / "copies"))


def test_a_full_disk_is_said_before(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamarec.checkpoints.backup.copies.free_bytes", lambda _: 1000)
    with pytest.raises(SpaceError, match=r"no room"):
        backup(run.checkpoint(100), str(tmp_path / "copies"))


@pytest.mark.parametrize("url", ["s3://bucket/x", "nosuch://x"])
def test_an_address_that_cannot_be_opened_says_what_to_install(run: RunFolder, url: str) -> None:
    with pytest.raises(CheckpointError, match=r"pip install s3fs"):
        backup(run.checkpoint(100), url)


# ---- The way back ----


def test_a_good_checkpoint_is_replaced_only_when_asked(run: RunFolder, destination: str, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", (100,), newest_minutes_ago=500)
    copy = backup(other.checkpoint(100), destination)
    before = _contents(run.checkpoint(100))
    with pytest.raises(CheckpointError, match=r"--replace"):
        restore(copy, run)
    assert _contents(run.checkpoint(100)) == before
    restore(copy, run, replace=True)
    assert _contents(run.checkpoint(100)) == _contents(other.checkpoint(100))
    assert run.leftovers() == []


def test_a_damaged_checkpoint_is_replaced_and_the_same_one_stays(run: RunFolder, destination: str) -> None:
    copy = backup(run.checkpoint(100), destination)
    before = run.checkpoint(100).stat().st_ino
    assert restore(copy, run) == run.checkpoint(100)
    assert run.checkpoint(100).stat().st_ino == before
    damage(run.checkpoint(100))
    restore(copy, run)
    assert verify(run.checkpoint(100)).health == "good"


def test_a_damaged_copy_is_refused_and_leaves_the_run_alone(run: RunFolder, destination: str, tmp_path: Path) -> None:
    copy = backup(run.checkpoint(100), destination)
    store = open_store(copy)
    store.write("optimizer.pt", [b"x" * (run.checkpoint(100) / "optimizer.pt").stat().st_size])
    other = RunFolder(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"optimizer\.pt has changed since the save"):
        restore(copy, other)
    assert other.checkpoints() == []
    assert other.leftovers() == []


@pytest.mark.parametrize("source", ["nothing", "nothing/checkpoint-5"])
def test_a_source_that_is_not_there_is_named(run: RunFolder, tmp_path: Path, source: str) -> None:
    with pytest.raises(CheckpointError, match=r"nothing"):
        restore(str(tmp_path / source), run)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/outside", "a/../../outside", "C:outside", "..\\outside", "", "manifest.json"]
)
def test_a_manifest_cannot_write_outside(run: RunFolder, tmp_path: Path, name: str) -> None:
    folder = run.checkpoint(100)
    manifest = read_manifest(folder)
    assert manifest is not None
    hostile = replace(manifest, files={**manifest.files, name: FileEntry(1, "0" * 64)})
    (folder / MANIFEST).write_bytes(hostile.to_bytes())
    with pytest.raises(CheckpointError, match=r"not a name inside a checkpoint"):
        restore(str(folder), RunFolder(tmp_path / "deep" / "other"))
    assert not (tmp_path / "deep").exists()


def test_a_manifest_of_another_step_is_refused(run: RunFolder, tmp_path: Path) -> None:
    run.checkpoint(100).rename(run.path / "checkpoint-7")
    with pytest.raises(CheckpointError, match=r"says step 100, the folder's name checkpoint-7"):
        restore(str(run.path / "checkpoint-7"), RunFolder(tmp_path / "other"))


# ---- Without a manifest ----


def test_a_plain_trainers_checkpoint_goes_there_and_back(tmp_path: Path, destination: str) -> None:
    plain = make_plain_run(tmp_path / "plain")
    copy = backup(plain.checkpoint(300), destination)
    assert backup(plain.checkpoint(300), destination) == copy
    other = RunFolder(tmp_path / "other")
    restore(destination, other)
    assert _contents(other.checkpoint(300)) == _contents(plain.checkpoint(300))
    (plain.checkpoint(300) / "adapter_config.json").write_text('{"r": 16}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"already exists"):
        backup(plain.checkpoint(300), destination)


def test_a_plain_copy_that_is_damaged_is_refused_by_its_own_format(tmp_path: Path) -> None:
    plain = make_plain_run(tmp_path / "plain")
    copy = Path(backup(plain.checkpoint(300), str(tmp_path / "copies")))
    (copy / "optimizer.pt").write_bytes((copy / "optimizer.pt").read_bytes()[:100])
    other = RunFolder(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"checkpoint-300 is damaged"):
        restore(str(copy), other)
    assert other.checkpoints() == []


def _entry(run: RunFolder, name: str) -> FileEntry:
    path = run.checkpoint(100) / "manifest.json"
    return FileEntry(**json.loads(path.read_text(encoding="utf-8"))["files"][name])
