"""What the path of a table says: that it is one, and how its data set is called; and that its options are kept."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from llamarec.cli.main import main
from llamarec.command import flags_of
from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare, resolve_options
from llamarec.errors import ConfigError
from tests.data.cases import ROWS, delimited


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("shop.csv", "shop"),
        ("data/shop.tar.gz", "shop"),
        ("SHOP.CSV.GZ", "SHOP"),
        ("data/all.zip/ml-1m/ratings.dat", "ratings"),
        ("data/shop.xlsx/Orders", "shop"),
        ("data/events.parquet/", "events"),
        ("./events", "events"),
        ("data/events.v1.2", "events.v1.2"),
        (r"C:\data\my shop.tsv", "my shop"),
        ("shop.parquet.bz2", "shop"),
    ],
)
def test_the_path_of_a_table_names_its_data_set(code: str, name: str) -> None:
    config = DataConfig(code)
    assert (config.is_own_table, config.name) == (True, name)


@pytest.mark.parametrize("code", ["beauty", "ml-100k", "shop", "amazon2023-All_Beauty", ""])
def test_a_code_is_no_path(code: str) -> None:
    config = DataConfig(code)
    assert (config.is_own_table, config.name) == (False, code)


def test_a_folder_without_a_slash_is_named_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events").mkdir()
    with pytest.raises(ConfigError, match=r"the table of this name: --dataset_code \./events"):
        prepare(DataConfig("events"))


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        prepare(DataConfig("/dev/null/" if Path("/dev/null").is_dir() else "/dev/null", experiment_root=str(tmp_path)))


def test_options_of_a_table_stay_known(tmp_path: Path) -> None:
    path = tmp_path / "shop.txt"
    path.write_bytes(delimited(columns=("user", "item", "timestamp", "title"), header=[], separator="\t"))
    root = ["--experiment_root", str(tmp_path / "experiments")]
    words = ["--columns", "user,item,_,title", "--separator", "\\t", "--no_timestamp"]
    assert main(["prepare", "--dataset_code", str(path), *root, *words]) == 0

    config = DataConfig(str(path), experiment_root=str(tmp_path / "experiments"))
    later = resolve_options(config, {"dataset_code"})
    assert (later.columns, later.separator, later.no_timestamp) == ("user,item,_,title", "tab", True)
    typed = flags_of(later, config)
    assert shlex.join(typed) == "--no_timestamp True --columns user,item,_,title --separator tab"
    assert main(["prepare", "--dataset_code", str(path), *root, *typed]) == 0
    assert len(ROWS) == prepare(later).num_interactions
