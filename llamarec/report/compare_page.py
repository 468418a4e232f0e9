"""The page of `llamarec compare --output`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from llamarec.report.compare import METRICS, ComparedRuns, Side, shown_columns, without_letters
from llamarec.report.figures import curves_figure, intervals_figure
from llamarec.report.page import filled, write_page
from llamarec.report.run import RunFacts
from llamarec.report.seeds import SeedGroup


def write_comparison(comparison: ComparedRuns, runs: Mapping[str, RunFacts], target: Path) -> None:
    """Writes the comparison as one self-contained HTML file."""
    write_page(target, filled("compare.html.j2", _content(comparison, runs)))


def _content(comparison: ComparedRuns, runs: Mapping[str, RunFacts]) -> dict[str, object]:
    curves = {f"run {number}": run.curves for number, run in enumerate(runs.values(), start=1)}
    columns = shown_columns(comparison.sides)
    figure = curves_figure(curves, "eval_fused_ndcg@10", "validation, ndcg@10 of the final order")

    return {
        "title": f"{len(comparison.sides)} runs compared",
        "about": f"Metrics over {comparison.num_users:,} test users that all runs have in common. An item that was "
        "not proposed counts as 0. 95% intervals by paired bootstrap over users."
        + ("" if comparison.same_candidates else " Candidates differ; part of each difference is the first stage's."),
        "without_letters": without_letters(comparison.sides),
        "sides": comparison.sides,
        "columns": list(columns.values()),
        "metrics": [{"name": metric, "rows": _rows(comparison.sides, metric, columns)} for metric in METRICS],
        "groups": [_group(group, columns) for group in comparison.groups],
        "differences": Markup(intervals_figure(*_differences(comparison.sides), "difference from run 1, overall")),
        "curves": Markup(figure) if figure else None,
        "options": {name: list(map(str, values)) for name, values in comparison.hyperparameters.items()},
    }


def _rows(sides: list[Side], metric: str, columns: Mapping[str, str]) -> list[list[str]]:
    rows = []
    for number, side in enumerate(sides, start=1):
        figures = [side.figures[name][metric] for name in columns]
        difference = side.differences.get(metric)
        shown = ["", ""]
        if difference is not None:
            shown = [f"{difference[0]:+.4f}", f"{difference[1]:+.4f} to {difference[2]:+.4f}"]
        rows.append([str(number), *(f"{value:.4f}" for value in figures), *shown])

    return rows


def _group(group: SeedGroup, columns: Mapping[str, str]) -> dict[str, object]:
    rows = [
        [
            metric,
            *("{:.4f} \u00b1 {:.4f}".format(*group.columns[name][metric]) for name in columns),
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
