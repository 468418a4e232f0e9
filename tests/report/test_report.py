"""The report: what it must show of a run, that it needs nothing from elsewhere, and that it never stands in the way."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.cli.main import main
from llamarec.cli.report import report_of
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.metrics import ndcg_at
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.training.run import train_ranker
from llamarec.report.breakdown import by_history, by_popularity
from llamarec.report.examples import examples
from llamarec.report.page import render
from llamarec.report.run import RunFacts, read_run
from llamarec.report.sessions import interrupted
from llamarec.vocabulary import Experiment
from tests.report.conftest import QUIET, argv


class _Page(HTMLParser):
    """Tags that are opened and closed, addresses, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "path", "use", "rect", "line"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "path", "use", "rect", "line"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(run: RunFacts) -> str:
    return render(run)


def test_the_page_is_one_well_formed_file_that_needs_nothing_else(page: str) -> None:
    parsed = _Page(page)
    assert parsed.open == []
    assert all(address.startswith("#") for address in parsed.addresses)
    assert not re.search(r"@import|url\((?!#)|<script|<link", page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {address[1:] for address in parsed.addresses} <= set(parsed.ids)


def test_colours_are_the_pages_own(page: str) -> None:
    # What figures are drawn in is replaced by names of the style sheet, which has them for light and dark.
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", page)
    for name in set(re.findall(r"var\((--[a-z0-9-]+)\)", page)):
        assert page.count(f"{name}: #") == 2, name


def test_it_shows_what_a_run_is_worth(page: str, experiment: Experiment) -> None:
    text = " ".join(_Page(page).text.split())
    metrics = json.loads((experiment.ranker / "metrics.json").read_text(encoding="utf-8"))
    row = next(row for row in metrics["subset"] if row["metric"] == "ndcg@10")
    assert f"{row['retriever']:.4f}" in text
    assert f"{row['ranker']:.4f}" in text
    assert f"{row['low']:+.4f} to {row['high']:+.4f}" in text
    for words in (
        "Finished at step 12 of 12",
        "Took next",
        "reversed",
        "nats per prompt",
        "overall_ndcg@10",
        "python train_ranker.py --dataset_code",
    ):
        assert words in text, words
    # Where the order is the retriever's there is nobody whom it helps.
    of_letters = ("gain in ndcg@10 by length of history", "overall ndcg@10", "standardised first stage score")
    of_none = ("ranker = first stage score", "no weight yet")
    for words in of_letters if metrics["fusion"]["letters"] else of_none:
        assert words in text, words


def test_titles_are_text_and_no_markup(page: str) -> None:
    assert "&lt;" in page
    assert re.search(r"Film <\d+> & more", _Page(page).text)
    assert not re.search(r"<\d+>", page)


def test_an_interruption_is_told_with_its_cost(run: RunFacts, page: str) -> None:
    (one,) = run.interruptions
    assert (one.from_step, one.reached, one.steps_lost) == (4, 8, 4)
    assert one.seconds_a_step is not None
    assert one.seconds_lost == pytest.approx(4 * one.seconds_a_step)
    assert one.seconds_saved == pytest.approx(4 * one.seconds_a_step)
    assert any("learning_rate" in change for change in one.changes)
    assert "learning_rate" in page


def test_a_finished_training_that_is_extended_is_no_interruption(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "extended"))
    train_ranker(parse(argv(folder, "--resume_from_checkpoint", "--max_steps", "16")), QUIET)
    experiment = Experiment(folder / "experiments", "shop")
    run = read_run(RunFolder(experiment.checkpoints), experiment)
    assert [(one.from_step, one.was_finished) for one in run.interruptions] == [(4, False), (12, True)]
    assert interrupted(run.interruptions) == run.interruptions[:1]
    text = _Page(render(run)).text
    assert re.search(r"extended after it had finished; .*max_steps: 12 -> 16", text)
    assert "1 interruption. Trained twice" in text


def test_curves_are_of_the_last_training_of_each_step(run: RunFacts) -> None:
    steps, rates = run.curves.of("learning_rate")
    assert steps == list(range(1, 13))
    # From step 5 on it is the resume's rate, five times the first command's.
    assert max(rates[:4]) <= 1e-4 < rates[4]
    assert run.curves.of("eval_fused_ndcg@10")[0] == [4, 8, 12]


def test_bins_together_are_all_covered_users(run: RunFacts) -> None:
    assert run.test is not None
    assert run.data is not None
    covered = run.test.filter(pl.col("retriever_rank") > 0)
    for bins in (by_history(run.test, run.data), by_popularity(run.test, run.data)):
        assert sum(one.num_users for one in bins) == len(covered)
        mean = sum(one.retriever * one.num_users for one in bins) / len(covered)
        assert mean == pytest.approx(ndcg_at(covered["retriever_rank"].to_numpy(), 10))
        assert all(one.low <= one.difference <= one.high for one in bins)


def test_examples_are_real_users_with_the_truth_marked(run: RunFacts) -> None:
    assert run.test is not None
    assert run.data is not None
    shown = examples(run.test, run.data)
    # In the retriever's order nobody gains.
    assert {one.why for one in shown} <= {"median", "drawn at random"}
    ranks = run.test["letters_rank"]
    by_letters = run.test.with_columns(final_rank=ranks, final_scores=pl.col("letter_logp"))
    moved = examples(by_letters, run.data)
    assert (moved[0].why, moved[-1].why) == ("gains most", "loses most")
    assert moved[0].final_rank < moved[0].retriever_rank
    assert moved[-1].final_rank > moved[-1].retriever_rank
    for user in (*shown, *moved):
        assert [one.final_rank for one in user.candidates] == list(range(1, 21))
        (label,) = [one for one in user.candidates if one.is_label]
        assert (label.title, label.final_rank, label.retriever_rank) == (
            user.label,
            user.final_rank,
            user.retriever_rank,
        )
        assert sum(one.letter_p for one in user.candidates) == pytest.approx(1, abs=1e-3)


def test_the_command_writes_it_and_says_where(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--experiment_root", str(experiment.root)]
    assert main(["report", "shop", *root, "--output", str(tmp_path / "sub" / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "sub" / "page.html")
    assert main(["report", str(experiment.ranker), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(experiment.ranker / "report.html")}
    assert (experiment.ranker / "report.html").is_file()
    assert main(["report", "shap", *root]) == 2
    assert "no run shap" in capsys.readouterr().err


def test_the_command_has_what_a_finished_run_was_tested_with_since(run: RunFacts) -> None:
    assert run.metrics is not None
    assert run.manifest is not None
    assert "max_test_users" not in run.manifest.given
    assert "--max_test_users" not in render(run)
    config = {**run.metrics["config"], "max_test_users": 30}
    text = render(replace(run, metrics={**run.metrics, "config": config}))
    assert "--max_test_users 30" in text
    assert "--max_test_users" not in render(replace(run, metrics={**run.metrics, "config": config, "step": 8}))


CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# As a manifest from elsewhere may have them: tags, lines, what a terminal obeys, Markdown.
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</td></table><h1>",
    "a\n# b\r\n- c",
    "\x1b[2J\x1b]0;title\x07\x9b",
    "\u202etxt\u2028next\ud800",
    "[x](javascript:alert(1)) ![y](http://z)",
    "| a \\| b | `c` ``",
    "&lt;script&gt; <!-- -->",
]


@pytest.mark.parametrize("value", [*HOSTILE, HOSTILE, {HOSTILE[0]: HOSTILE[4]}], ids=lambda value: ascii(value)[:20])
def test_hyperparameters_from_elsewhere_are_text(run: RunFacts, page: str, value: object) -> None:
    assert run.manifest is not None
    for name in ("learning_rate", str(value)):
        options = {**run.manifest.hyperparameters, name: value}
        manifest = replace(run.manifest, hyperparameters=options, given={**run.manifest.given, name: value})
        text = render(replace(run, manifest=manifest))
        text.encode("utf-8")
        assert not CONTROLS.search(text)
        found, before = _Page(text), _Page(page)
        assert (found.open, found.addresses, found.ids) == (before.open, before.addresses, before.ids)
        assert text.count("<script") == page.count("<script")
        assert text.count("<img") == page.count("<img")


def test_secrets_are_not_shown(run: RunFacts) -> None:
    assert run.manifest is not None
    options = {**run.manifest.hyperparameters, "hub_token": "hf_secret"}
    manifest = replace(run.manifest, given={**run.manifest.given, "hub_token": "hf_secret"}, hyperparameters=options)
    assert "hf_secret" not in render(replace(run, manifest=manifest))


def test_an_output_that_is_no_file_is_refused(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "page.html"
    folder.mkdir()
    assert main(["report", str(experiment.ranker), "--output", str(folder)]) == 2
    assert "--output FILE" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_page_is_never_called_a_pdf(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(experiment.ranker), "--output", str(tmp_path / "page.pdf")]) == 2
    assert "ends in .html" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_report_that_fails_does_not_fail_the_run(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, "shop")
    training = SimpleNamespace(process_index=0, output_dir=str(experiment.checkpoints))
    parsed: Any = SimpleNamespace(training=training, experiment=experiment)
    assert f"again: llamarec report {experiment.ranker}" in report_of(parsed)
    training.process_index = 1
    assert report_of(parsed) == ""


def test_few_users_of_one_kind_have_one_bin(run: RunFacts) -> None:
    assert run.test is not None
    data: PreparedData | None = run.data
    assert data is not None
    same = replace(data, sequences=replace(data.sequences, validation_ends=np.full(data.num_users, 3, dtype=np.int32)))
    (only,) = by_history(run.test, same)
    assert only.name == "3"
    assert by_history(run.test.head(0), data) == []
