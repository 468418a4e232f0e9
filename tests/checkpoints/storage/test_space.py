"""Room on the disk, and how sizes are written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from llamarec.checkpoints.storage import space
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.errors import SpaceError


def _free(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=num_bytes))


@pytest.mark.parametrize(("free", "fits"), [(110_000_000 + 2**20, True), (110_000_000 + 2**20 - 1, False), (0, False)])
def test_room_for_one_more(free: int, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, free)
    if fits:
        space.require_space(RunFolder(tmp_path), 100_000_000, measured=True)
        return
    with pytest.raises(SpaceError) as error:
        space.require_space(RunFolder(tmp_path), 100_000_000, measured=True)
    assert f"the disk of {tmp_path} has no room for a checkpoint" in str(error.value)
    assert "111.0 MB free (one checkpoint takes 100.0 MB)" in str(error.value)


def test_an_estimate_says_that_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, 0)
    with pytest.raises(SpaceError, match=r"will take about 5\.0 kB"):
        space.require_space(RunFolder(tmp_path), 5_000, measured=False)


def test_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    assert space.free_bytes(tmp_path / "a/b/c") > 0


def test_size_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/x").write_bytes(b"12345")
    (tmp_path / "a/b/y").write_bytes(b"123")
    assert space.folder_bytes(tmp_path) == 8


def test_a_file_that_vanishes_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "gone").write_bytes(b"123")
    whole = Path.stat

    def stat(path: Path, **kwargs: Any) -> Any:
        if path.name == "gone":
            raise FileNotFoundError(path)
        return whole(path, **kwargs)

    monkeypatch.setattr(Path, "stat", stat)
    assert space.folder_bytes(tmp_path) == 5
