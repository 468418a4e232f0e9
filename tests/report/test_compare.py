"""Runs side by side: the same users, paired intervals, and which options differ."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.cli.compare import _print
from llamarec.cli.main import main
from llamarec.errors import ArtifactError
from llamarec.evaluation.metrics import ndcg_values
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.training.run import train_ranker
from llamarec.report.compare import compare_runs
from llamarec.report.compare_page import write_comparison
from llamarec.report.run import RunFacts, read_run
from llamarec.vocabulary import Experiment
from tests.report.conftest import QUIET, argv
from tests.report.test_report import CONTROLS, HOSTILE


@pytest.fixture(scope="module")
def second(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The same data and retriever, another ranker, tested on fewer users."""
    folder = tmp_path_factory.mktemp("second")
    for part in ("data", "lru"):
        shutil.copytree(finished / "experiments" / part, folder / "experiments" / part)
    shutil.copy(finished / "shop.csv", folder)
    train_ranker(parse(argv(folder, "--lora_r", "2", "--max_test_users", "30", "--max_steps", "4")), QUIET)
    return Experiment(folder / "experiments", "shop")


def _read(experiment: Experiment) -> RunFacts:
    return read_run(RunFolder(experiment.checkpoints), experiment)


def test_runs_are_compared_on_the_users_they_share(experiment: Experiment, second: Experiment) -> None:
    found = compare_runs({"a": _read(experiment), "b": _read(second)})
    assert found.num_users == 30
    tests = [pl.read_parquet(one.ranker / "test.parquet") for one in (experiment, second)]
    shared = tests[1].select("user").join(tests[0], on="user", how="left", maintain_order="left")
    first = ndcg_values(shared["final_rank"].to_numpy(), 10)
    other = ndcg_values(tests[1]["final_rank"].to_numpy(), 10)
    a, b = found.sides
    assert a.ranker["ndcg@10"] == pytest.approx(first.mean())
    assert b.ranker["ndcg@10"] == pytest.approx(other.mean())
    assert a.differences == {}
    middle, low, high = b.differences["ndcg@10"]
    assert middle == pytest.approx((other - first).mean())
    assert low <= middle <= high


def test_options_that_differ_are_named_and_places_are_not(experiment: Experiment, second: Experiment) -> None:
    differing = compare_runs({"a": _read(experiment), "b": _read(second)}).hyperparameters
    assert differing["lora_r"] == [8, 2]
    assert differing["learning_rate"] == [5e-4, 1e-4]
    assert not {"output_dir", "experiment_root", "seed"} & differing.keys()


def test_the_command_prints_a_table_for_60_columns_and_a_page(
    experiment: Experiment,
    second: Experiment,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    target = tmp_path / "both.html"
    runs = [str(experiment.ranker), str(second.ranker)]
    assert main(["compare", *runs, "--output", str(target)]) == 0
    said = capsys.readouterr().out
    assert "30 test users in common" in said
    assert re.search(r"lora_r +8  \|  2", said)
    assert re.search(r"(?m)^ +2( +\d\.\d{4}){3} +[+-]\d\.\d{4} +[+-]\d\.\d{4} [+-]\d\.\d{4}$", said)
    page = target.read_text(encoding="utf-8")
    assert "Options that differ" in page
    assert not re.search(r"@import|<script|<link", page)
    assert page.count("<svg") == 2
    assert main(["compare", *runs, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [side["name"] for side in content["sides"]] == runs


def test_runs_of_other_seeds_are_taken_together(
    experiment: Experiment,
    second: Experiment,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = _read(experiment), _read(second)
    assert one.manifest is not None
    assert one.test is not None
    assert one.metrics is not None
    # The same run under another seed, with other ranks.
    manifest = replace(one.manifest, hyperparameters={**one.manifest.hyperparameters, "seed": 7})
    test = one.test.with_columns(final_rank=pl.col("retriever_rank"), letters_rank=pl.col("retriever_rank"))
    again = replace(one, manifest=manifest, test=test)
    # A copy of a run counts once, and of a run without checkpoints nobody knows the rate.
    unknown = replace(again, manifest=None)
    found = compare_runs({"a": one, "b": other, "c": again, "d": one, "e": unknown})
    (group,) = found.groups
    assert group.runs == [1, 3]
    for column in ("retriever", "ranker"):
        values = [found.sides[run - 1].figures[column]["ndcg@10"] for run in group.runs]
        assert group.columns[column]["ndcg@10"] == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    gain, low, high = group.gains["ndcg@10"]
    # The second run of the two is the retriever's order.
    assert gain == pytest.approx((found.sides[0].ranker["ndcg@10"] - found.sides[0].retriever["ndcg@10"]) / 2)
    assert low <= gain <= high
    monkeypatch.setenv("COLUMNS", "60")
    _print(found)
    said = capsys.readouterr().out
    assert "Runs 1, 3 differ only in their seeds" in " ".join(said.split())
    assert "\u2026" not in said
    assert re.search(r"(?m)^ndcg@10( \d\.\d{4}){3}", re.sub(r" +", " ", said))
    runs = {"a": one, "b": other, "c": again, "d": one, "e": unknown}
    write_comparison(found, runs, tmp_path / "page.html")
    assert "Runs 1, 3 differ only in their seeds" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_equal_runs_do_not_differ(experiment: Experiment, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shutil.copytree(experiment.ranker, tmp_path / "llm" / "shop")
    other = str(tmp_path / "llm" / "shop")
    assert main(["compare", str(experiment.ranker), other]) == 0
    said = capsys.readouterr().out
    assert "no option differs" in said
    assert "in their seeds" not in said
    assert "+0.0000 +0.0000" in said


def test_one_run_is_not_enough(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(experiment.ranker), str(experiment.ranker)]) == 2
    assert "only one run to compare" in capsys.readouterr().err


def test_what_cannot_be_compared_is_refused(experiment: Experiment, second: Experiment) -> None:
    one, other = _read(experiment), _read(second)
    with pytest.raises(ArtifactError, match=r"(?s)b: this run was not tested.*--resume_from_checkpoint"):
        compare_runs({"a": one, "b": replace(other, test=None)})
    elsewhere = replace(other, ranker={"data_fingerprint": "f" * 64})
    with pytest.raises(ArtifactError, match=r"(?s)not trained on the same data.*b: data fingerprint ffffffffffff"):
        compare_runs({"a": one, "b": elsewhere})
    assert other.test is not None
    nobody = other.test.with_columns(user=pl.Series([f"x{number}" for number in np.arange(len(other.test))]))
    with pytest.raises(ArtifactError, match="no user in common"):
        compare_runs({"a": one, "b": replace(other, test=nobody)})


def test_hyperparameters_from_elsewhere_are_text_on_a_terminal(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = _read(experiment)
    assert one.manifest is not None
    plain = replace(one.manifest, hyperparameters={f"x{number}": "plain" for number in range(len(HOSTILE))})
    hostile = replace(plain, hyperparameters={f"x{number}": value for number, value in enumerate(HOSTILE)})
    runs = {"a": replace(one, manifest=plain), "b": replace(one, manifest=hostile)}
    found = compare_runs(runs)
    _print(found)
    said = capsys.readouterr().out
    assert "x0" in said
    assert not CONTROLS.search(said)
    write_comparison(found, runs, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not CONTROLS.search(page)
    assert not [text for text in ("<script>alert", "<img src=x", "</table><h1>", "<!-- -->") if text in page]
