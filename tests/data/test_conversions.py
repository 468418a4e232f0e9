"""Forms of tables that are not read: the message says how they are converted, and what it says works."""

from __future__ import annotations

import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.tables.conversions import OTHER_ENDINGS, conversion
from llamarec.errors import ConfigError
from tests.data.cases import ROWS, zipped

_FRAME = pl.DataFrame(ROWS)


@pytest.mark.parametrize("before", ["", "./", "data/"])
@pytest.mark.parametrize("ending", [*OTHER_ENDINGS, ".FEATHER", ".pkl.gz"])
def test_a_form_that_is_not_read_is_said_to_be_such(
    ending: str, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(f"{before}shop{ending}")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")

    with pytest.raises(ConfigError, match="a table in a form that is not read") as caught:
        prepare(DataConfig(f"{before}shop{ending}"))
    assert caught.value.hint
    assert "--dataset_code" not in caught.value.hint
    assert "{" not in caught.value.hint


def test_a_folder_or_an_archive_with_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "part-0.feather").write_bytes(b"x")
    (tmp_path / "old.zip").write_bytes(zipped({"shop.pkl": b"x"}))
    for name, inside in (("shop", "part-0.feather"), ("old.zip", "shop.pkl")):
        with pytest.raises(ConfigError, match=f"with {inside} in it: a table in a form that is not read"):
            prepare(DataConfig(str(tmp_path / name), experiment_root=str(tmp_path / "experiments")))


def test_forms_that_are_read_need_no_conversion() -> None:
    assert not any(conversion(f"shop{ending}") for ending in (".csv", ".data", ".dat.gz", ".json", ".parquet", ".xlsx"))
    assert not conversion("ml-100k")


@pytest.mark.parametrize(
    "ending", [".feather", ".arrow", ".ipc", ".stream.arrow", ".avro", ".pkl", ".sqlite", ".dta", ".xml"]
)
def test_what_is_said_works(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(f"shop{ending}")
    _write(path)

    (*_, line) = conversion(path.name) if "stream" in ending else conversion(path.name)[:1]
    command = line[line.index("sqlite3" if ending == ".sqlite" else "python -c") :].replace("TABLE", "orders")
    words = shlex.split(command.partition(" > ")[0])
    words[0] = sys.executable if words[0] == "python" else words[0]
    done = subprocess.run(words, capture_output=True, check=True)
    if target := command.partition(" > ")[2]:
        Path(target).write_bytes(done.stdout)

    made = next(file for file in Path().glob("shop*") if file.suffix in (".csv", ".parquet"))
    assert prepare(DataConfig(made.name)).num_interactions == len(ROWS)


def _write(path: Path) -> None:
    if path.name.endswith(".stream.arrow"):
        _FRAME.write_ipc_stream(path)
    elif path.suffix in (".feather", ".arrow", ".ipc"):
        _FRAME.write_ipc(path)
    elif path.suffix == ".avro":
        _FRAME.write_avro(path)
    elif path.suffix == ".sqlite":
        if not shutil.which("sqlite3"):
            pytest.skip("no sqlite3")
        with sqlite3.connect(path) as database:
            database.execute(f"CREATE TABLE orders ({', '.join(_FRAME.columns)})")
            places = ", ".join("?" * _FRAME.width)
            database.executemany(f"INSERT INTO orders VALUES ({places})", _FRAME.rows())
        database.close()
    else:
        pandas = pytest.importorskip("pandas")
        if path.suffix == ".xml":
            pytest.importorskip("lxml")
        frame = pandas.DataFrame(_FRAME.to_dict(as_series=False)).astype(object)
        {".pkl": frame.to_pickle, ".dta": frame.to_stata, ".xml": frame.to_xml}[path.suffix](path)
