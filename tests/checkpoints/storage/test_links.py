"""Links, FIFOs, devices and stray entries in a run's folder: nothing is read or deleted through them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from llamarec.checkpoints.backup.copies import backup, restore
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.best_model import publish_best, read_best
from llamarec.checkpoints.storage.discovery import latest
from llamarec.checkpoints.storage.entries import EntryError, described, entries_below, kind_of, read_bytes
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import RunLock, is_locked
from llamarec.checkpoints.storage.publish import delete, publish, staged
from llamarec.checkpoints.storage.recovery import recover
from llamarec.checkpoints.storage.summary import gather
from llamarec.checkpoints.storage.verification import verify
from llamarec.errors import CheckpointError, LlamarecError
from tests.checkpoints.factory import fill, fill_weights, make_plain_run, make_run, manifest

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
needs_fifos = pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs and devices with names in folders")
OWN_FOLDERS = (".best", ".saving-checkpoint-300", ".saving-checkpoint-7", ".deleting-checkpoint-7", ".live-3")
REPLACED = ".replaced-checkpoint-7"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of the user's, which no run may touch."""
    folder = tmp_path / "elsewhere"
    (folder / "below").mkdir(parents=True)
    (folder / "mine.txt").write_text("mine", encoding="utf-8")
    (folder / "below" / "too.txt").write_text("too", encoding="utf-8")
    return folder


def _is_whole(folder: Path) -> bool:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return names == ["below", "below/too.txt", "mine.txt"]


def _link(path: Path, target: Path) -> None:
    """A link to a folder; on Windows a junction, for which nobody needs rights."""
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(target), str(path))  # type: ignore[attr-defined,unused-ignore]
    else:
        path.symlink_to(target, target_is_directory=True)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        # The name of a socket may have about 100 letters.
        os.chdir(path.parent)
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


MAKE: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_bytes(b"x"),
    "a FIFO": lambda path: os.mkfifo(path),  # type: ignore[attr-defined,unused-ignore]
    "a socket": _socket,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link in a circle": lambda path: path.symlink_to(path.name),
}
IN_PLACE_OF_FOLDERS = [pytest.param(kind, marks=[needs_fifos] if kind != "a file" else []) for kind in MAKE]
IN_PLACE_OF_FILES = [pytest.param(kind, marks=needs_fifos) for kind in MAKE if kind != "a file"]


def _use(run: RunFolder) -> None:
    """Everything that deletes in a run's folder."""
    with RunLock(run):
        recover(run)
        publish(run, manifest(300, 9, CREATED, best=200), partial(fill, step=300))
        publish_best(run, manifest(200, 1, CREATED, best=200), partial(fill_weights, step=200))
        delete(run, 100)
    recover(run)


@pytest.mark.parametrize("name", [*OWN_FOLDERS, REPLACED])
def test_a_link_costs_only_itself(name: str, elsewhere: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    _link(run.path / name, elsewhere)

    _use(run)

    assert _is_whole(elsewhere)
    assert kind_of(run.path / name) == "nothing"
    best = read_best(run.path)
    assert best is not None
    assert best.step == 200


@pytest.mark.parametrize("name", OWN_FOLDERS)
def test_a_link_to_a_good_checkpoint_is_not_published(name: str, tmp_path: Path) -> None:
    other, run = make_run(tmp_path / "other"), make_run(tmp_path / "run", (100,))
    _link(run.path / name, other.checkpoint(300))

    recover(run)

    assert run.steps() == [100]
    assert verify(other.checkpoint(300)).is_resumable


@pytest.mark.parametrize("kind", IN_PLACE_OF_FOLDERS)
@pytest.mark.parametrize("name", [*OWN_FOLDERS, REPLACED])
def test_what_is_no_folder_is_cleared_and_said(name: str, kind: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    MAKE[kind](run.path / name)

    said = recover(run)

    assert kind_of(run.path / name) == "nothing"
    assert name.startswith(".live") or any(text.startswith(f"{name}: cleared; it was {kind}") for text in said)
    _use(run)


def test_links_below_a_folder_are_not_entered(elsewhere: Path, tmp_path: Path) -> None:
    folder = tmp_path / "doomed" / "a" / "b"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent, tmp_path / "doomed"):
        _link(place / "link", elsewhere)

    assert not any("mine.txt" in str(path) for path in entries_below(tmp_path / "doomed"))
    durable.remove(tmp_path / "doomed")

    assert _is_whole(elsewhere)
    assert not (tmp_path / "doomed").exists()


@pytest.mark.skipif(os.name == "nt", reason="there the folder is held by its path")
def test_a_link_that_appears_while_a_folder_is_deleted(elsewhere: Path, tmp_path: Path) -> None:
    folder = tmp_path / "doomed"
    (folder / "below").mkdir(parents=True)
    for name in ("mine.txt", "below/too.txt", "z.txt"):
        (folder / name).write_text("x", encoding="utf-8")

    def swap(effect: str, path: Path) -> None:
        # z.txt is the first to go; then somebody puts a link in the place of the folder.
        if path.name == "z.txt" and effect == "unlink":
            (folder).rename(tmp_path / "moved")
            folder.symlink_to(elsewhere, target_is_directory=True)

    durable.observer = swap
    try:
        with pytest.raises(OSError, match="doomed"):
            durable.remove(folder)
    finally:
        durable.observer = None

    assert _is_whole(elsewhere)


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_no_name_is_never_deleted(name: str, elsewhere: Path) -> None:
    with pytest.raises(OSError, match="may be deleted"):
        durable.remove(Path(name) if name in ("", ".") else elsewhere / "below" / "..")
    assert _is_whole(elsewhere)


def test_a_folder_too_deep_is_said(tmp_path: Path) -> None:
    deep = tmp_path / "run"
    (deep / "/".join(["d"] * 40)).mkdir(parents=True)
    with pytest.raises(EntryError, match="more folders in folders"):
        list(entries_below(deep))
    durable.remove(deep)
    assert not deep.exists()


# ---- A checkpoint that is a link ----


def test_a_checkpoint_that_is_a_link_is_listed_resumed_and_never_emptied(tmp_path: Path) -> None:
    other, run = make_run(tmp_path / "other"), make_run(tmp_path / "run", (100,))
    _link(run.checkpoint(300), other.checkpoint(300))

    assert run.steps() == [100, 300]
    choice = latest(run)
    assert choice is not None
    assert choice.verdict.path == run.checkpoint(300)
    assert [one.verified for one in gather(run, deep=True)] == ["hashes", "hashes"]

    delete(run, 300)

    assert run.steps() == [100]
    assert verify(other.checkpoint(300)).health == "good"


def test_a_save_over_a_link_leaves_what_it_leads_to(elsewhere: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", (100,))
    _link(run.checkpoint(300), elsewhere)

    publish(run, manifest(300, 9, CREATED), partial(fill, step=300))

    assert kind_of(run.checkpoint(300)) == "folder"
    assert _is_whole(elsewhere)


def test_a_restore_over_a_link_leaves_what_it_leads_to(elsewhere: Path, tmp_path: Path) -> None:
    other, run = make_run(tmp_path / "other"), make_run(tmp_path / "run", (100,))
    _link(run.checkpoint(300), elsewhere)

    restored = restore(str(other.checkpoint(300)), run)

    assert verify(restored).health == "good"
    assert _is_whole(elsewhere)


def test_a_killed_save_over_a_link_puts_the_link_back(tmp_path: Path) -> None:
    other, run = make_run(tmp_path / "other"), make_run(tmp_path / "run", (100,))
    _link(run.replaced(300), other.checkpoint(300))

    recover(run)

    assert verify(run.checkpoint(300)).health == "good"
    assert kind_of(run.checkpoint(300)) == "link"


# ---- In the place of files ----


@pytest.mark.parametrize("kind", IN_PLACE_OF_FILES)
@pytest.mark.parametrize(
    "name", ["manifest.json", "trainer_state.json", "optimizer.pt", "rng_state.pth", "adapter_model.bin"]
)
@pytest.mark.parametrize("make", [make_run, make_plain_run], ids=["ours", "plain"])
def test_no_file_is_said_of_its_checkpoint_alone(
    make: Callable[[Path], RunFolder], name: str, kind: str, tmp_path: Path
) -> None:
    run = make(tmp_path / "run")
    (run.checkpoint(300) / name).unlink(missing_ok=True)
    MAKE[kind](run.checkpoint(300) / name)
    started = time.monotonic()

    choice = latest(run)
    gather(run, deep=True)
    with pytest.raises(LlamarecError):
        backup(run.checkpoint(300), str(tmp_path / "copy"))

    assert choice is not None
    assert choice.verdict.path == run.checkpoint(200)
    assert [one.path for one in choice.passed_over] == [run.checkpoint(300)]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("kind", IN_PLACE_OF_FILES)
def test_reading_neither_waits_nor_fills_the_memory(kind: str, tmp_path: Path) -> None:
    MAKE[kind](tmp_path / "x")
    assert described(tmp_path / "x") == kind
    with pytest.raises(OSError, match="x"):
        read_bytes(tmp_path / "x", 100)


def test_each_kind_of_file_has_a_limit(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("manifest.json", "trainer_state.json"):
        with (run.checkpoint(300) / name).open("wb") as file:
            file.truncate(2**30)  # a hole, which takes no room
    verdict = verify(run.checkpoint(300))
    assert "manifest.json has 1,073,741,824 bytes; such a file has at most 67,108,864" in verdict.reason
    choice = latest(run)
    assert choice is not None
    assert choice.verdict.path == run.checkpoint(200)


@needs_fifos
def test_a_link_in_a_plain_trainers_checkpoint_does_not_leave_with_a_backup(tmp_path: Path) -> None:
    run = make_plain_run(tmp_path / "run")
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (run.checkpoint(300) / "notes.txt").symlink_to(tmp_path / "secret")

    with pytest.raises(CheckpointError, match=r"notes\.txt is a link to a file"):
        backup(run.checkpoint(300), str(tmp_path / "copy"))

    assert not (tmp_path / "copy").exists()


# ---- In the place of what a run has beside its checkpoints ----


@needs_fifos
@pytest.mark.parametrize("name", [".run.lock", ".run.json", "restarted.json.new"])
def test_nothing_is_written_through_a_link(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    (run.path / name).symlink_to(tmp_path / "mine.txt")

    assert not is_locked(run)
    with RunLock(run):
        durable.replace_file(run.restarted, b'{"before_restart": {}}')

    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["best.json", "restarted.json", "adapter_model.bin", "adapter_config.json"])
def test_a_folder_in_the_place_of_a_file_is_said(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run.path / name).mkdir()
    with pytest.raises(CheckpointError, match=rf"{name} is a folder(?s:.*)give it another name: (mv|ren) "):
        recover(run)


@pytest.mark.parametrize("kind", [param for param in IN_PLACE_OF_FOLDERS if param.values[0] != "a link to a device"])
def test_output_dir_is_said_for_what_it_is(kind: str, tmp_path: Path) -> None:
    MAKE[kind](tmp_path / "run")
    with pytest.raises(CheckpointError, match=f"run is {kind}, not a folder"):
        RunLock(RunFolder(tmp_path / "run")).acquire()


def test_a_staged_best_model_cannot_take_a_checkpoints_name(tmp_path: Path) -> None:
    """Its folder would take the place of the checkpoint's."""
    run = make_run(tmp_path / "run", best_model=True)
    with staged(run.best_staging) as staging:
        (staging.path / "checkpoint-200").mkdir()
        staging.write("checkpoint-200/x.bin", b"x")
        staging.finish("best.json", replace(manifest(200, 5, CREATED), files=staging.files).to_bytes())

    recover(run)

    assert verify(run.checkpoint(200)).health == "good"


@pytest.mark.parametrize("kind", [param for param in IN_PLACE_OF_FOLDERS if param.values[0] != "a link to a device"])
def test_a_trainer_says_what_output_dir_is(kind: str, tmp_path: Path) -> None:
    """Before the Trainer tries to make the folder."""
    from tests.resume.runs import quiet_trainer

    MAKE[kind](tmp_path / "run")
    with pytest.raises(CheckpointError, match=f"run is {kind}, not a folder"):
        quiet_trainer(tmp_path / "run", num_samples=12, noisy=False)
