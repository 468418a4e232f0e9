"""Every data set that a program can fetch, from a server of this machine: what is fetched is what is read."""

from __future__ import annotations

import functools
import gzip
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.source import RawFile, Source
from llamarec.data.sources import SOURCES
from tests.data.raw import NUM_USERS, WRITERS

FETCHED = sorted(code for code in WRITERS if not SOURCES[code].by_hand)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which its files are."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _serve(source: Source, raw: Path, folder: Path, address: str) -> Source:
    """The source with its files, or the archives of them, at another address."""
    archives: dict[str, io.BytesIO] = {}
    files = []
    for file in source.files:
        content = _content(file, raw)
        assert file.download is not None
        if not file.download.member:
            (folder / file.download.archive).write_bytes(content)
        else:
            archive = archives.setdefault(file.download.archive, io.BytesIO())
            with zipfile.ZipFile(archive, "a") as packed:
                packed.writestr(file.download.member, content)
        there = replace(file.download, url=address + file.download.archive, sha256="", md5="")
        files.append(replace(file, download=there))

    for name, archive in archives.items():
        (folder / name).write_bytes(archive.getvalue())
    return replace(source, files=tuple(files), fallback=None)


def _content(file: RawFile, raw: Path) -> bytes:
    name = next(name for name in (file.name, *file.other_names) if (raw / name).is_file())
    content = (raw / name).read_bytes()
    return gzip.compress(content) if file.name.endswith(".gz") and not name.endswith(".gz") else content


@pytest.mark.parametrize("code", FETCHED)
def test_what_is_fetched_is_read(
    code: str, served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    WRITERS[code](raw)
    monkeypatch.setitem(SOURCES, code, _serve(SOURCES[code], raw, *served))

    data = prepare(DataConfig(code, str(tmp_path / "data"), str(tmp_path / "experiments")))
    assert data.num_users == NUM_USERS
    there = {path.name for path in (tmp_path / "data" / code).iterdir() if path.suffix != ".lock"}
    assert there == {file.name for file in SOURCES[code].files}, "no archive, no part"


@pytest.mark.parametrize("code", sorted(code for code, source in SOURCES.items() if not source.by_hand))
def test_addresses_are_safe_and_whole(code: str) -> None:
    for file in SOURCES[code].files:
        assert file.download is not None
        assert file.download.url.startswith("https://")
        assert len(file.download.md5) in (0, 32)
        assert len(file.download.sha256) in (0, 64)
