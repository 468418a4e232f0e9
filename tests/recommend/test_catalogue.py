"""Items by what people type."""

from __future__ import annotations

import pytest

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.recommend.catalogue import Catalogue, UnknownError

TITLES = {
    "a1": "Halo 3",
    "a2": "Halo 3 ODST",
    "a3": "The Legend of Zelda:  Twilight Princess",
    "a4": "Wii Remote",
    "a5": "wii remote",
    "a6": "Pokémon Black Version",
    "halo 3": "A key like a title",
}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("catalogue")
    lines = ["user,item,timestamp,title"]
    for user in range(6):
        keys = [key for key in TITLES if user < 5 or key != "a4"]
        lines += [f"user-{user},{key},{time},{TITLES[key]}" for time, key in enumerate(keys)]
    (folder / "shop.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Catalogue(prepare(DataConfig(str(folder / "shop.csv"), experiment_root=str(folder / "experiments"))))


def _title(catalogue: Catalogue, text: str) -> str:
    return catalogue._data.titles[catalogue.item(text)]


def test_keys_come_before_titles_and_titles_in_any_case_and_spacing(catalogue: Catalogue) -> None:
    assert _title(catalogue, "a1") == "Halo 3"
    assert _title(catalogue, "HALO 3  odst ") == "Halo 3 ODST"
    assert _title(catalogue, "halo 3") == "A key like a title"
    assert _title(catalogue, "the legend of zelda: twilight princess") == "The Legend of Zelda: Twilight Princess"
    assert _title(catalogue, "POKÉMON BLACK VERSION") == "Pokémon Black Version"


def test_of_equal_titles_the_one_that_more_people_took(catalogue: Catalogue) -> None:
    assert catalogue._data.items[catalogue.item("Wii Remote")] == "a5"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Halo 3 OSDT", "Halo 3 ODST"),
        ("Zelda Twilight Princess", "The Legend of Zelda: Twilight Princess"),
        ("Pokemon Black", "Pokémon Black Version"),
        ("wii remotes", "Wii Remote"),
    ],
)
def test_an_unknown_title_is_refused_with_near_ones(catalogue: Catalogue, typed: str, meant: str) -> None:
    with pytest.raises(UnknownError, match="no item has the key or title") as refused:
        catalogue.items(["a1", typed])
    assert refused.value.near[0].casefold() == meant.casefold()
    assert meant.casefold() in str(refused.value).casefold()


@pytest.mark.parametrize("typed", ["qqqq zzzz", "", "   ", "🎮"])
def test_what_looks_like_nothing_says_so(catalogue: Catalogue, typed: str) -> None:
    with pytest.raises(UnknownError, match="check that this is the right data set") as refused:
        catalogue.item(typed)
    assert refused.value.near == []


def test_a_search_takes_words_in_any_order_and_the_last_one_unfinished(catalogue: Catalogue) -> None:
    titles = catalogue._data.titles
    assert [titles[item] for item in catalogue.search("halo")] == ["Halo 3", "Halo 3 ODST"]
    assert [titles[item] for item in catalogue.search("princess ZEL")] == ["The Legend of Zelda: Twilight Princess"]
    assert catalogue.search("") == catalogue.search("halo zelda") == []
    assert len(catalogue.search("h", limit=1)) == 1


def test_an_unknown_user_is_refused_with_near_ones(catalogue: Catalogue) -> None:
    assert catalogue.taken_by("user-3") == catalogue._data.sequences.whole(3).tolist()
    with pytest.raises(UnknownError, match=r"(?s)no user 'user_3'.*user-3"):
        catalogue.taken_by("user_3")


def test_a_key_is_known_in_any_case_where_that_is_one_item(catalogue: Catalogue) -> None:
    key = catalogue._data.items[1]
    assert catalogue.item(key.upper()) == catalogue.item(key) == 1
