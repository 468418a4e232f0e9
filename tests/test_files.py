"""Small files: whole or as before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.file_set import FileSet
from llamarec.files import replacing_folder, write_bytes, write_json, write_text


def test_folders_are_made_and_nothing_else_remains(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b.json", {"title": "Café"})
    assert json.loads((tmp_path / "a" / "b.json").read_text(encoding="utf-8")) == {"title": "Café"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


def test_lines_end_alike_on_every_system(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "one\ntwo\n")
    assert (tmp_path / "x").read_bytes() == b"one\ntwo\n"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "x", "\ud800")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "old"


def test_a_file_of_a_cache_is_replaced_whole(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_bytes(tmp_path / "a" / "b", content)
        assert (tmp_path / "a" / "b").read_bytes() == content
    (tmp_path / "folder" / "x").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_bytes(tmp_path / "folder", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder"], "nothing is left beside it"


def _content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    for text in ("first", "second"):
        with replacing_folder(target) as staging:
            (staging / f"{text}.txt").write_text(text)
        assert _content(target) == {f"{text}.txt": text}
    assert [path.name for path in target.parent.iterdir()] == ["b"]


def test_a_folder_that_cannot_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    with replacing_folder(target) as staging:
        (staging / "a.txt").write_text("first")
    with pytest.raises(KeyError), replacing_folder(target):
        raise KeyError
    assert _content(target) == {"a.txt": "first"}
    rename = Path.rename

    def busy(self: Path, to: Path) -> Path:
        # As on Windows, where a scanner has a new file open.
        if self.name == ".a.llamarec-new":
            raise PermissionError("in use")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(PermissionError), replacing_folder(target) as staging:
        (staging / "a.txt").write_text("second")
    assert _content(target) == {"a.txt": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_a_kill_left_under_its_other_name_is_put_back(tmp_path: Path) -> None:
    target = tmp_path / "a"
    (tmp_path / ".a.llamarec-old").mkdir()
    (tmp_path / ".a.llamarec-old" / "a.txt").write_text("first")
    (tmp_path / ".a.llamarec-new").mkdir()
    with pytest.raises(KeyError), replacing_folder(target):
        raise KeyError
    assert _content(target) == {"a.txt": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# Fills a folder with one file under another text each time, slowly, and says when it has begun.
_REPLACE = """
import sys, time
from pathlib import Path
from llamarec.files import replacing_folder

target, text, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
for _ in range(int(sys.argv[4])):
    with replacing_folder(target) as staging:
        (staging / "a.txt").write_text(text)
        print("filling", flush=True)
        time.sleep(seconds)
        (staging / "b.txt").write_text(text)
"""
# Dies at the given rename of a folder, as by a kill.
_KILLED = """
import os, signal, sys
from pathlib import Path
from llamarec.files import replacing_folder

rename, left = Path.rename, [int(sys.argv[2])]

def killed(self, to):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    left[0] -= 1
    return rename(self, to)

Path.rename = killed
with replacing_folder(Path(sys.argv[1])) as staging:
    (staging / "a.txt").write_text("second")
"""


def _start(program: str, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_replace_a_folder_one_after_the_other(tmp_path: Path) -> None:
    target = tmp_path / "a"
    programs = [_start(_REPLACE, target, text, 0.02, 15) for text in ("one", "two")]
    for program in programs:
        _, err = program.communicate(timeout=60)
        assert (program.returncode, err) == (0, "")
    assert _content(target) in ({"a.txt": text, "b.txt": text} for text in ("one", "two"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_process_that_waits_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    target = tmp_path / "a"
    first = _start(_REPLACE, target, "one", 600, 1)
    assert first.stdout is not None
    assert first.stdout.readline() == "filling\n"
    second = _start(_REPLACE, target, "two", 0, 1)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=1)

    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)

    _, err = second.communicate(timeout=60)
    assert (second.returncode, err) == (0, "")
    assert _content(target) == {"a.txt": "two", "b.txt": "two"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_between_the_renames_loses_nothing(renames: int, tmp_path: Path) -> None:
    target = tmp_path / "a"
    with replacing_folder(target) as staging:
        (staging / "a.txt").write_text("first")
    killed = _start(_KILLED, target, renames)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert target.exists() == (renames == 0)

    with pytest.raises(KeyError), replacing_folder(target):
        raise KeyError

    assert _content(target) == {"a.txt": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def _effects_of(action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    effects: list[tuple[str, str]] = []
    monkeypatch.setattr(durable, "observer", lambda effect, path: effects.append((effect, path.name)))
    action()
    return effects


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be synced")
def test_a_folder_is_on_the_medium_before_it_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()

    def replace() -> None:
        with replacing_folder(tmp_path / "model") as staging:
            (staging / "sub").mkdir()
            (staging / "sub/weights").write_text("1")

    effects = _effects_of(replace, monkeypatch)
    synced = [name for effect, name in effects if effect == "fsync"]
    assert synced == ["weights", "sub", ".model.llamarec-new", tmp_path.name]
    assert effects.index(("fsync", tmp_path.name)) < effects.index(("remove", ".model.llamarec-old"))


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be synced")
def test_files_are_on_the_medium_before_the_manifest_that_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power loss may keep the manifest's entry in the folder and lose an older one."""
    files = FileSet(tmp_path / "set")
    effects = _effects_of(lambda: files.publish(lambda staging: staging.write("lists", b"1"), {}), monkeypatch)
    made = effects.index(("make", "manifest.json"))
    assert effects.index(("fsync", "lists")) < effects.index(("fsync", ".publishing")) < made


def test_what_a_killed_process_left_beside_a_file_goes_with_the_next_write(tmp_path: Path) -> None:
    old, fresh = (tmp_path / f"metrics.json.{uuid.uuid4().hex}.tmp" for _ in range(2))
    theirs = tmp_path / "metrics.json.backup.tmp"
    for path in (old, fresh, theirs):
        path.write_bytes(b"{")
    for path in (old, theirs):
        os.utime(path, (0, 0))

    write_json(tmp_path / "metrics.json", {})
    # A process that writes the same file now keeps its own.
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", fresh.name, theirs.name}
