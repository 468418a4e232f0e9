"""Small files: whole or as before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
