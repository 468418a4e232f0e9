"""The pages in headless Chromium: light and dark, wide and narrow. Skipped where there is no Chromium."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.report.compare import compare_runs
from llamarec.report.compare_page import write_comparison
from llamarec.report.page import write_report
from llamarec.report.run import read_run
from llamarec.vocabulary import Experiment
from tests.browser import content_of, needs_chromium

pytestmark = needs_chromium

# What is asked is written into the page's own title, which --dump-dom prints.
_ASK = """<script>
const style = getComputedStyle(document.body);
const texts = [...document.querySelectorAll("svg text")];
document.title = JSON.stringify({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  width: document.documentElement.clientWidth,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  paper: style.backgroundColor, ink: style.color,
  figures: [...document.querySelectorAll("svg")].map(svg => Math.round(svg.getBoundingClientRect().width)),
  inks: [...new Set(texts.map(text => getComputedStyle(text).fill))],
});
</script></body>"""


@pytest.fixture(scope="module")
def pages(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    run = read_run(RunFolder(experiment.checkpoints), experiment)
    write_report(RunFolder(experiment.checkpoints), experiment, folder / "report.html")
    runs = {"one": run, "other": run}
    write_comparison(compare_runs(runs), runs, folder / "compare.html")
    for path in list(folder.iterdir()):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("</body>", _ASK), encoding="utf-8")
    return {path.stem: path for path in folder.iterdir()}


def _seen(page: Path, width: int, *, dark: bool) -> dict[str, Any]:
    out = content_of(page.as_uri(), width=width, dark=dark)
    title = re.search(r"<title>(\{.*?\})</title>", out)
    assert title is not None
    return dict(json.loads(title[1]))


@pytest.mark.parametrize("name", ["report", "compare"])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [500, 1400])
def test_nothing_runs_over_the_edge_and_colours_fit(pages: dict[str, Path], name: str, width: int, dark: bool) -> None:
    seen = _seen(pages[name], width, dark=dark)
    assert seen["dark"] is dark
    assert seen["width"] == width
    # Wide tables and figures scroll inside their own boxes.
    assert seen["overflow"] == 0
    assert all(300 < figure <= 760 for figure in seen["figures"])
    paper, ink = (sum(map(int, re.findall(r"\d+", seen[key])[:3])) for key in ("paper", "ink"))
    assert (paper < 150 and ink > 600) if dark else (paper > 700 and ink < 150)
    # Figures are written in the page's ink.
    assert seen["inks"] == [seen["ink"]]
