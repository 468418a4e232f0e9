"""Runs of `--readout items` in reports and comparisons: the words are theirs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llamarec.cli.main import main
from llamarec.cli.report import find_run_and_experiment
from llamarec.report.compare import compare_runs, shown_columns
from llamarec.report.page import render
from llamarec.report.run import RunFacts, read_run
from tests.ranker.shop import run_shop
from tests.recommend.conftest import item_run, shop

__all__ = ["item_run", "shop"]


def read(folder: Path) -> RunFacts:
    return read_run(*find_run_and_experiment(str(folder), folder.parent.parent))


@pytest.fixture(scope="module")
def both(item_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of items and one of letters, on the same retriever."""
    folder = Path(shutil.copytree(item_run, tmp_path_factory.mktemp("both") / "shop"))
    runs = folder / "experiments" / "llm"
    few = ("--max_steps", "2", "--order_prompts", "0", "--hard_negatives", "0", "--title_similarity", "false")
    run_shop(folder, *few, "--output_dir", str(runs / "letters" / "checkpoints"))
    return runs / "shop", runs / "letters"


def test_the_report_compares_with_the_first_stage(both: tuple[Path, Path]) -> None:
    text = render(read(both[0]))
    assert "ranker compared with the first stage" in text
    assert "<h2>Test: first stage and ranker</h2>" in text
    assert "beside all others the language model adds" in text
    for words in ("letters alone", "compared with the retriever", ">retriever<", "ranker − retriever"):
        assert words not in text, words


def test_items_beside_letters(both: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    runs = [str(one) for one in both]
    assert main(["compare", *runs, "--output", str(tmp_path / "both.html")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "run first stage model alone ranker to run 1 95% interval" in said
    assert "titles" not in said.partition("options that differ")[0]
    assert "readout items | letters" in said
    assert '<th scope="col">model alone</th>' in (tmp_path / "both.html").read_text(encoding="utf-8")
    assert main(["compare", *runs, "--json"]) == 0
    sides = json.loads(capsys.readouterr().out)["sides"]
    assert [side["readout"] for side in sides] == ["items", "letters"]
    assert {"retriever", "titles", "letters", "ranker"} <= set(sides[0])


def test_each_kind_has_its_column_and_titles_only_where_they_count(both: tuple[Path, Path]) -> None:
    items, letters = (compare_runs({"a": read(one), "b": read(one)}).sides for one in both)
    assert list(shown_columns(items).values()) == ["first stage", "items", "ranker"]
    assert list(shown_columns(letters).values()) == ["first stage", "letters", "ranker"]
    with_titles = [replace(letters[0], titles={"ndcg@10": 1.0}), letters[1]]
    assert list(shown_columns(with_titles).values()) == ["retriever", "titles", "letters", "ranker"]
