"""Archives, compressions and folders: what is in them, when it counts as changed, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llamarec.data import containers
from llamarec.data.config import DataConfig
from llamarec.data.containers import members, open_bytes
from llamarec.data.inputs import changed_inputs, files_of
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.errors import DataError
from tests.data.cases import ROWS, delimited, parquet, tarred, zipped

CSV = delimited()


def _prepare(path: Path | str, folder: Path) -> PreparedData:
    return prepare(DataConfig(str(path), experiment_root=str(folder / "experiments")))


def _encrypted(raw: bytes) -> bytes:
    """A zip whose members say that they are encrypted."""
    changed = bytearray(raw)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[raw.index(signature) + offset] |= 1
    return bytes(changed)


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.zip"
    path.write_bytes(_encrypted(zipped({"a.csv": CSV})))
    with pytest.raises(DataError, match=r"(?s)the archive is encrypted.*unpack it"):
        _prepare(path, tmp_path)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("shop.zip", lambda raw: zipped({"a.csv": raw})),
        ("shop.tar.gz", lambda raw: tarred({"a.csv": raw})),
        ("shop.csv.gz", gzip.compress),
        ("shop.csv.bz2", bz2.compress),
    ],
)
def test_what_unpacks_to_far_more_than_any_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(containers, "_ALWAYS_ALLOWED", 2**16)
    path = tmp_path / name
    path.write_bytes(pack(CSV + b"\n" * 2**24))
    with pytest.raises(DataError, match="unpacks to more than 500 times its size"):
        _prepare(path, tmp_path)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python reads zstd")
def test_zstd_is_refused_with_what_to_type(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    with pytest.raises(DataError, match=r"(?s)does not read zstd.*zstd -d shop\.csv\.zst"):
        _prepare(path, tmp_path)


def test_no_member_leads_out_of_its_archive(tmp_path: Path) -> None:
    (tmp_path / "outside.csv").write_bytes(CSV)
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name in ("../outside.csv", "/abs.csv", "in/ok.csv", "in/../../outside.csv"):
            archive.writestr(name, CSV)
    path = tmp_path / "shop.zip"
    path.write_bytes(raw.getvalue())

    assert members(path) == ["abs.csv", "in/ok.csv"]
    with open_bytes(path / "abs.csv") as file:
        assert file.read() == CSV


def test_links_in_a_tar_are_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "shop.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("passwords.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert members(path) == []


def test_tables_of_one_name_in_an_archive_are_two(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    other = delimited([{**row, "title": row["title"] + "!"} for row in ROWS])
    path.write_bytes(zipped({"a/shop.csv": CSV, "b/shop.csv": other}))

    first = _prepare(f"{path}/a/shop.csv", tmp_path)
    second = _prepare(f"{path}/b/shop.csv", tmp_path)
    assert first.fingerprint != second.fingerprint
    assert _prepare(f"{path}/b/shop.csv", tmp_path).manifest["inputs"] == second.manifest["inputs"]


def test_each_part_of_a_folder_counts_as_raw_data(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    for number, half in enumerate((ROWS[:18], ROWS[18:])):
        (folder / f"part-{number}.parquet").write_bytes(parquet(half))

    data = _prepare(folder, tmp_path)
    assert changed_inputs(data.folder) == []
    assert _prepare(folder, tmp_path).fingerprint == data.fingerprint
    (folder / "_SUCCESS").write_bytes(b"")
    assert changed_inputs(data.folder) == []

    more = [{**row, "user": f"{row['user']} again"} for row in ROWS]
    (folder / "part-2.parquet").write_bytes(parquet(more))
    assert changed_inputs(data.folder) == [str(folder)]
    assert _prepare(folder, tmp_path).num_users == 2 * data.num_users


def test_parts_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["part-10.csv", "part-2.csv", "part-1.csv", "a/part-3.csv"]
    (tmp_path / "a").mkdir()
    for name in [*names, "_SUCCESS", ".part-1.csv.crc"]:
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in files_of(tmp_path)]
    assert found == ["a/part-3.csv", "part-1.csv", "part-2.csv", "part-10.csv"]


def test_nothing_stays_open(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for name, raw in (("a.zip", zipped({"a.csv": CSV})), ("b.tar.gz", tarred({"a.csv": CSV}))):
        path = tmp_path / name
        path.write_bytes(raw)
        _prepare(path, tmp_path / name.partition(".")[0])
        path.unlink()
    assert not [one for one in recwarn if issubclass(one.category, ResourceWarning)]
