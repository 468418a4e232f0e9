"""The page of `llamarec compare --output`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from llamarec.report.compare import METRICS, ComparedRuns, Side, without_letters
from llamarec.report.figures import curves_figure, intervals_figure
from llamarec.report.page import filled, write_page
from llamarec.report.run import RunFacts
from llamarec.report.seeds import SeedGroup


def write_comparison(comparison: ComparedRuns, runs: Mapping[str, RunFacts], target: Path) -> None:
    """Writes the comparison as one self-contained HTML file."""
    write_page(target, filled("compare.html.j2", _content(comparison, runs)))


def _content(comparison: ComparedRuns, runs: Mapping[str, RunFacts]) -> dict[str, object]:
    curves = {f"run {number}": run.curves for number, run in enumerate(runs.values(), start=1)}
    figure = curves_figure(curves, "eval_fused_ndcg@10", "validation, ndcg@10 of the final order")

    return {
        "title": f"{len(comparison.sides)} runs compared",
        "about": f"Metrics over {comparison.num_users:,} test users that all runs have in common. An item that the "
        "retriever did not propose counts as 0. 95% intervals by paired bootstrap over users."
        + ("" if comparison.same_candidates else " Candidates differ, so part of each difference is the retriever's."),
        "without_letters": without_letters(comparison.sides),
        "sides": comparison.sides,
        "metrics": [{"name": metric, "rows": _rows(comparison.sides, metric)} for metric in METRICS],
        "groups": [_group(group) for group in comparison.groups],
        "differences": Markup(intervals_figure(*_differences(comparison.sides), "difference from run 1, overall")),
        "curves": Markup(figure) if figure else None,
        "options": {name: list(map(str, values)) for name, values in comparison.hyperparameters.items()},
    }


def _rows(sides: list[Side], metric: str) -> list[list[str]]:
    rows = []
    for number, side in enumerate(sides, start=1):
        figures = [column[metric] for column in side.figures.values()]
        difference = side.differences.get(metric)
        shown = ["", ""]
        if difference is not None:
            shown = [f"{difference[0]:+.4f}", f"{difference[1]:+.4f} to {difference[2]:+.4f}"]
        rows.append([str(number), *(f"{value:.4f}" for value in figures), *shown])

    return rows


def _group(group: SeedGroup) -> dict[str, object]:
    rows = [
        [
            metric,
            *("{:.4f} \u00b1 {:.4f}".format(*column[metric]) for column in group.columns.values()),
            f"{gain[0]:+.4f}",
            f"{gain[1]:+.4f} to {gain[2]:+.4f}",
        ]
        for metric, gain in group.gains.items()
    ]
    return {"runs": ", ".join(map(str, group.runs)), "rows": rows}


def _differences(sides: list[Side]) -> tuple[list[str], list[tuple[float, float, float]]]:
    found = {
        f"run {number}: {metric}": difference
        for number, side in enumerate(sides, start=1)
        for metric, difference in side.differences.items()
    }
    return list(found), list(found.values())
