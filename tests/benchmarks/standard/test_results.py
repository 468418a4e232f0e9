"""What was measured is used again only where code, libraries, data and length are those of now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.standard import results
from benchmarks.standard.page import read_summary, rendered
from benchmarks.standard.published import published
from benchmarks.standard.results import Result, Task, differences, read_result, row_of, write_result
from benchmarks.standard.sets import SETS, Form, check_form, counts_of, digests_of, prepared_set, quick_table
from benchmarks.standard.summary import summarised
from benchmarks.standard.systems import system_of
from llamarec.data.prepared import PreparedData
from llamarec.errors import DataError

POPULARITY = system_of("popularity")
GONE = "/".join(["llamarec", "gone.py"])
DIGESTS = {"sequences": "a", "titles": "b"}


def _result(ranks: list[int] | None = None) -> Result:
    return Result(
        rows={"popularity": row_of(np.array(ranks or [1, 0, 300, 7]), 0.5)},
        notes={"neighbours": 20},
        fit_seconds=1.0,
        peak_bytes=10**9,
        counts={"users": 4, "items": 9, "interactions": 30, "test": 4, "unseen": 0},
        digests=DIGESTS,
        code={
            "benchmarks/standard/protocol.py": results.sha256_of_code(results.ROOT / "benchmarks/standard/protocol.py")
        },
        versions=results.versions_of(POPULARITY),
        max_epochs=0,
        machine="here",
        commit="abc",
    )


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = Task("beauty", "temporal", "popularity", 1).path(tmp_path)
    write_result(path, _result())
    assert read_result(path) == _result()
    assert _result().rows["popularity"].as_array().tolist() == [1, 0, 0, 7]

    path.write_text(path.read_text()[:-20])
    assert read_result(path) is None
    assert read_result(tmp_path / "none.json") is None


def test_only_what_is_of_now_is_used_again() -> None:
    same = differences(_result(), POPULARITY, DIGESTS, 0)
    assert not same.data
    assert not same.code

    for changed, words in (
        (replace(_result(), digests={**DIGESTS, "titles": "c"}), "other data"),
        (replace(_result(), max_epochs=2), "another number of epochs"),
    ):
        found = differences(changed, POPULARITY, DIGESTS, 0)
        assert found.data == [words]

    code = differences(replace(_result(), code={"benchmarks/standard/protocol.py": "0"}), POPULARITY, DIGESTS, 0)
    assert code.code == ["other code: benchmarks/standard/protocol.py"]
    gone = differences(replace(_result(), code={GONE: "0"}), POPULARITY, DIGESTS, 0)
    assert gone.code == [f"other code: {GONE}"]
    version = differences(replace(_result(), versions={"numpy": "1.0"}), POPULARITY, DIGESTS, 0)
    assert version.code[0].startswith("numpy 1.0, now ")


def test_a_result_depends_on_the_modules_that_make_it_and_not_on_the_list() -> None:
    names = results.loaded_code()
    assert {"benchmarks/standard/protocol.py", "llamarec/data/prepared.py", "llamarec/evaluation/metrics.py"} <= set(
        names
    )
    assert not {"benchmarks/standard/systems.py", "benchmarks/standard/sets.py", "llamarec/data/recipe.py"} & set(names)


def test_words_for_people_do_not_make_other_code(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    before = '"""One."""\n\n# Why.\ndef f(x):\n    """Two."""\n    return x + 1\n'
    found = []
    for text in (
        before,
        before.replace("One", "1").replace("Why", "?").replace("Two", "2"),
        before.replace("+ 1", "+ 2"),
    ):
        path.write_text(text)
        found.append(results.sha256_of_code(path))
    assert found[0] == found[1] != found[2]
    assert results.sha256_of_code(tmp_path / "none.py") == ""


def test_a_module_that_is_changed_meanwhile_is_like_no_other() -> None:
    code = results.code_of_measurement({"a.py": "1", "b.py": "2"}, {"a.py": "1", "b.py": "3", "late.py": "4"})
    assert code == {"a.py": "1", "b.py": results.CHANGED_MEANWHILE, "late.py": "4"}


def test_another_form_is_refused_with_what_to_do(data: PreparedData) -> None:
    counts = counts_of(data)
    form = Form(users=counts["users"], items=counts["items"] + 1, interactions=counts["interactions"], transitions=0)
    with pytest.raises(DataError) as caught:
        check_form(data, form, "leave_one_out")

    text = str(caught.value)
    assert "other items, transitions" in text
    assert f"{form.items} items" in text
    assert "docs/data.md" in text
    assert str(data.folder) in text


def test_the_digest_sees_a_swap_a_cut_and_a_title(data: PreparedData, folder: Path) -> None:
    before = digests_of(data)
    sequences = data.sequences
    swapped = sequences.item_ids.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert digests_of(replace(data, sequences=replace(sequences, item_ids=swapped)))["sequences"] != before["sequences"]

    other = digests_of(prepared_set("quick", "temporal", folder, "none"))
    assert other["sequences"] != before["sequences"]
    assert other["titles"] == before["titles"]
    assert digests_of(replace(data, titles=[*data.titles[:-1], "new"]))["titles"] != before["titles"]


def test_the_quick_set_is_the_same_everywhere(tmp_path: Path, folder: Path) -> None:
    assert quick_table(tmp_path).read_bytes() == quick_table(folder).read_bytes()


def test_means_are_over_users_and_seeds() -> None:
    tasks = {Task("beauty", "leave_one_out", "popularity", seed): _result(ranks) for seed, ranks in
             ((1, [1, 1, 0, 0]), (2, [1, 0, 0, 0]))}  # fmt: skip
    (entry,) = summarised(tasks).groups[0].entries
    # First user 1 and 1, second 1 and 0: (1 + 0.5) / 4.
    assert entry.estimates["recall@10"].mean == pytest.approx(0.375)
    assert entry.seed_range == pytest.approx(0.25)
    assert entry.is_with_best
    assert entry.estimates["recall@10"].low <= 0.375 <= entry.estimates["recall@10"].high


def test_a_part_has_the_seconds_of_its_own_fit() -> None:
    part = replace(_result(), rows={"popularity": row_of(np.array([1]), 0.5, 0.25)})
    (entry,) = summarised({Task("beauty", "temporal", "popularity", 1): part}).groups[0].entries
    assert entry.fit_seconds == 0.25


def test_a_part_that_a_set_does_not_allow_has_no_row() -> None:
    tasks = {
        Task("beauty", "temporal", "popularity", 1): _result(),
        Task("beauty", "temporal", "item-knn", 1): _result(),
    }
    assert [entry.row for entry in summarised(tasks).groups[0].entries] == ["popularity"]


def test_every_published_figure_has_a_source() -> None:
    content = published()
    for code, figures in content.figures.items():
        assert code in SETS
        for name, values in figures.items():
            assert content.systems[name].source in content.sources
            assert all(0 < value < 1 for value in values.values())
    assert set(content.systems) == {name for figures in content.figures.values() for name in figures}


def test_the_page_is_made_from_the_stored_summary() -> None:
    page, stored = results.ROOT / "docs" / "benchmarks.md", results.ROOT / "benchmarks" / "results" / "standard.json"
    assert page.read_text(encoding="utf-8") == rendered(read_summary(stored)), "python -m benchmarks.standard --render"
