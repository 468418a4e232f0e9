"""The summary of a preparation: every figure by hand, all in the manifest; a dry run that writes nothing."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamarec.cli.main import main
from llamarec.data import lines
from llamarec.data import prepare as preparation
from llamarec.data.config import DataConfig
from llamarec.data.prepare import dry_run, prepare
from llamarec.data.prepared import read_manifest
from llamarec.data.summary import Summary, summary_lines
from llamarec.data.tables import parquet
from llamarec.errors import ConfigError, DataError
from tests.data.raw import WRITERS

DAY = 86_400
START = 1_546_300_800
ROWS = [(f"u{user}", f"i{item}", START + DAY * item, f"Film {item}") for user in range(6) for item in range(6)]


def _table(path: Path, rows: list[tuple[str, str, int, str]]) -> DataConfig:
    lines = ["user,item,timestamp,title", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return DataConfig(str(path), experiment_root=str(path.parent / "experiments"))


def _files(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_every_figure_of_a_small_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # u0 took i4 and i5 together: the file's order makes i5 the test item. i0 and i1 have one title. u9 has one item.
    rows = [(user, item, time, "Film 1" if item == "i0" else title) for user, item, time, title in ROWS]
    rows[4] = ("u0", "i4", START + DAY * 5, "Film 4")
    table = [*rows, rows[0], ("u9", "i1", START, "Film 1"), ("u1", "i9", START + DAY * 9, "")]
    manifest = prepare(_table(tmp_path / "shop.csv", table)).manifest

    assert manifest["columns"] == {name: name for name in ("user", "item", "timestamp", "title")}
    assert manifest["times"] == {
        "form": "seconds since 1970",
        "first": "2019-01-01T00:00:00Z",
        "last": "2019-01-10T00:00:00Z",
    }
    assert manifest["rows"] == 39
    assert list(manifest["left_out"].values()) == [1, 1, 1]
    assert manifest["ties"] == {"users": 1, "labels": 1}
    assert manifest["shared_titles"] == {"items": 2, "most_shared": "Film 1"}
    assert manifest["taken_before"] == 0
    assert manifest["unseen_test_items"] == {"users": 6, "unseen": 6}

    said = capsys.readouterr().out
    assert said.splitlines()[1:] == [
        "table        shop.csv, separated by comma",
        "columns      user=user, item=item, timestamp=timestamp, title=title",
        "times        read as seconds since 1970: 2019-01-01 to 2019-01-10",
        "raw files    7 users, 7 items, 39 interactions",
        "dropped      1 exact copies of another interaction (same user, item and time)",
        "dropped      1 interactions with items that have no title",
        "dropped      1 interactions of users with fewer than 5 or items with fewer than 5 (--min_user_interactions, "
        "--min_item_interactions)",
        "             1 users are in neither training nor test, but can get recommendations",
        "ties         1 of 6 users have interactions at the same time, which keep the order of the file; it decided "
        "the validation or test item of 1",
        "titles       2 of 6 items share theirs with another item, such as 'Film 1'",
        "labels       no validation item was taken before by the same user",
        "test items   6 of 6 are in nobody's training part: a retriever cannot learn them",
    ]


def test_the_lines_are_made_from_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _table(tmp_path / "shop.csv", ROWS)
    prepare(config)
    manifest = read_manifest(config.experiment.data)
    assert manifest is not None
    assert capsys.readouterr().out.splitlines()[1:] == list(summary_lines(manifest))


def test_warnings_of_a_table_are_in_the_manifest_and_said_by_a_dry_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _table(tmp_path / "shop.csv", [*ROWS, ("U1", "i1", START, "Film 1")])
    warning = "WARNING: 2 users have a key near that of another, such as 'U1' and 'u1': each counts as one of its own"
    assert dry_run(config)["warnings"] == [warning]
    assert warning in capsys.readouterr().out.splitlines()

    prepare(config)
    manifest = read_manifest(config.experiment.data)
    assert manifest is not None
    assert manifest["warnings"] == [warning]
    assert capsys.readouterr().out.splitlines()[1:] == list(summary_lines(manifest))


def test_the_documentation_names_every_figure() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert [name for name in Summary.__annotations__ if f"`{name}`" not in text] == []


_TABLES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.sampled_from(["A", "B", "C", ""])),
    min_size=8,
    max_size=40,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=_TABLES)
def test_what_is_left_out_and_what_is_prepared_add_up_to_the_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int, str]]
) -> None:
    """Ties, shared titles and new test items are counted once more, as one would first."""
    table = [(f"u{user}", f"i{item}", START + time, title) for user, item, time, title in rows]
    path = tmp_path_factory.mktemp("sums") / "shop.csv"
    config = _table(path, table)
    config = DataConfig(
        config.dataset_code,
        experiment_root=config.experiment_root,
        min_user_interactions=2,
        min_item_interactions=1,
        title_column="title",
    )
    try:
        data = prepare(config)
    except DataError:
        return

    manifest, sequences = data.manifest, data.sequences
    assert manifest["rows"] == len(table) == sum(manifest["left_out"].values()) + data.num_interactions

    trained = {int(item) for user in range(data.num_users) for item in sequences.train(user)}
    labels = [sequences.label(user, "test") for user in range(data.num_users) if sequences.label(user, "test")]
    assert manifest["unseen_test_items"] == {
        "users": len(labels),
        "unseen": sum(label not in trained for label in labels),
    }
    times = [sequences.timestamps[a:b].tolist() for a, b in zip(sequences.offsets, sequences.offsets[1:], strict=False)]
    assert manifest["ties"]["users"] == sum(len(set(one)) < len(one) for one in times)
    assert manifest["ties"]["labels"] == sum(
        any(one.count(one[position]) > 1 for position in (len(one) - 2, len(one) - 1)) for one in times if len(one) > 2
    )
    titles = data.titles[1:]
    assert manifest["shared_titles"]["items"] == sum(titles.count(title) > 1 for title in titles)


def test_a_set_of_an_earlier_version_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _table(tmp_path / "shop.csv", ROWS)
    path = prepare(config).folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for name in ("times", "rows", "left_out", "num_others", "ties", "shared_titles", "unseen_test_items", "warnings"):
        del manifest[name]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    capsys.readouterr()
    assert prepare(config).num_users == 6
    assert "is already prepared" in capsys.readouterr().out


# ---- A dry run ----


@pytest.mark.parametrize("before", [False, True], ids=["new", "prepared"])
def test_a_dry_run_says_the_same_and_writes_nothing(
    before: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _table(tmp_path / "shop.csv", ROWS)
    if before:
        prepare(config)
    files = _files(tmp_path)
    capsys.readouterr()

    words = ["prepare", "--dry_run", "--dataset_code", config.dataset_code, "--experiment_root", config.experiment_root]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert _files(tmp_path) == files
    assert said[0] == "shop would be prepared: 6 users, 6 items, 36 interactions"
    assert said[-1] == "dry run      nothing was written"
    prepare(config, again=True)
    if not before:
        assert capsys.readouterr().out.splitlines()[1:] == said[1:-1]


@pytest.mark.parametrize("code", sorted(WRITERS))
def test_a_dry_run_of_a_public_set(code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw" / code).mkdir(parents=True)
    WRITERS[code](tmp_path / "raw" / code)
    files = _files(tmp_path)
    config = DataConfig(code, str(tmp_path / "raw"), str(tmp_path / "experiments"))
    dry_run(config)
    said = capsys.readouterr().out.splitlines()
    assert _files(tmp_path) == files
    prepare(config)
    assert capsys.readouterr().out.splitlines()[1:] == said[1:-1]


@pytest.fixture
def twenty_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "DRY_RUN_ROWS", 20)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("block", [1, 200, 2**20])
@pytest.mark.parametrize("num_rows", [19, 20, 21, 36])
@pytest.mark.usefixtures("twenty_rows")
def test_a_dry_run_reads_the_first_rows(
    ending: str, block: int, num_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is behind them."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", block)
    monkeypatch.setattr(parquet, "_ROWS_AT_ONCE", block)
    columns = dict(zip(("user", "item", "timestamp", "title"), zip(*ROWS[:num_rows], strict=True), strict=True))
    frame, path = pl.DataFrame(columns), tmp_path / f"shop{ending}"
    if ending == ".parquet":
        frame.write_parquet(path, row_group_size=7)
    else:
        text = frame.write_csv() if "csv" in ending else frame.write_ndjson()
        text = f"[{','.join(text.splitlines())}]" if ending == ".json" else text
        path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())

    config = DataConfig(str(path), experiment_root=str(tmp_path / "experiments"), title_column="title")
    summary = dry_run(replace(config, min_user_interactions=1, min_item_interactions=1))
    assert summary["rows"] == min(num_rows, 20)
    assert summary.get("first_rows") == (20 if num_rows > 20 else None)


@pytest.mark.usefixtures("twenty_rows")
def test_a_dry_run_stops_before_a_line_behind_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _table(tmp_path / "shop.csv", ROWS)
    path = Path(config.dataset_code)
    path.write_text(path.read_text(encoding="utf-8") + "broken\n", encoding="utf-8")
    config = replace(config, min_user_interactions=1, min_item_interactions=1)
    dry_run(config)
    said = capsys.readouterr().out
    assert "shop has more rows; of the first 20 alone, it would be prepared as: 4 users, 6 items, 20" in said
    with pytest.raises(DataError, match="line 38"):
        prepare(config)


@pytest.mark.usefixtures("twenty_rows")
def test_too_little_in_the_first_rows_is_said_of_them_alone(tmp_path: Path) -> None:
    config = _table(tmp_path / "shop.csv", ROWS)
    with pytest.raises(DataError, match=r"(?s)of the first 20 rows alone: .*k-core.*without --dry_run"):
        dry_run(config)


@pytest.mark.parametrize("code", sorted(WRITERS))
@pytest.mark.usefixtures("twenty_rows")
def test_a_dry_run_of_the_first_rows_of_a_public_set(code: str, tmp_path: Path) -> None:
    (tmp_path / "raw" / code).mkdir(parents=True)
    WRITERS[code](tmp_path / "raw" / code)
    config = DataConfig(code, str(tmp_path / "raw"), str(tmp_path / "experiments"))
    summary = dry_run(replace(config, min_user_interactions=1, min_item_interactions=1))
    assert summary["first_rows"] == 20
    assert summary["rows"] == 20


def test_a_dry_run_fetches_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)raw files are missing.*dry run fetches nothing"):
        dry_run(DataConfig("ml-100k", str(tmp_path / "raw"), str(tmp_path / "experiments")))
    assert not _files(tmp_path)


def test_a_dry_run_needs_the_table(tmp_path: Path) -> None:
    config = _table(tmp_path / "shop.csv", ROWS)
    prepare(config)
    with pytest.raises(ConfigError, match=r"--dry_run --dataset_code path/to/shop\.csv"):
        dry_run(DataConfig("shop", experiment_root=config.experiment_root))
