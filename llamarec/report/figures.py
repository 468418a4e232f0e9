"""Figures as SVG that take their colours from the page's style sheet: the same figure suits light and dark themes."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llamarec.evaluation.candidate_orders import OrderRow
from llamarec.evaluation.comparison import Row
from llamarec.report.breakdown import Bin
from llamarec.report.curves import Curves

# Drawn in these, shown in the colours that style.css gives the names.
_COLOURS: Final = {
    "#010101": "currentColor",
    "#020202": "var(--grid)",
    "#030303": "var(--series-1)",
    "#040404": "var(--series-2)",
    "#050505": "var(--series-3)",
    "#060606": "var(--mark)",
}
_INK, _GRID, _FIRST, _SECOND, _THIRD, _MARK = _COLOURS
_SERIES: Final = (_FIRST, _SECOND, _THIRD)
_STROKES: Final = ("-", "--", "-.")
_MARKERS: Final = ("o", "s", "^")
_MOST_MARKED_POINTS: Final = 40
_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "llamarec",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class _Panel:
    """One of the training figure's diagrams.

    Attributes:
        title: Above it.
        curves: Legend by the name in the Trainer's log.
    """

    title: str
    curves: Mapping[str, str]


_OF_RETRIEVER: Final = "eval_retriever_ndcg@10"
_PANELS: Final = (
    _Panel("loss", {"loss": "training", "eval_loss": "validation"}),
    _Panel("learning rate", {"learning_rate": "rate"}),
    _Panel(
        "validation, ndcg@10, all users",
        {
            "eval_fused_ndcg@10": "ranker",
            "eval_overall_ndcg@10": "language model alone",
            _OF_RETRIEVER: "retriever",
        },
    ),
)


def training_figure(curves: Curves, resumes: Sequence[int], best_step: int | None) -> str | None:
    """Loss, learning rate and validation metrics over steps; None where nothing was logged."""
    panels = [panel for panel in _PANELS if any(curves.of(name)[0] for name in panel.curves)]
    if not panels:
        return None

    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            len(panels), 1, figsize=(8, 2.2 * len(panels)), sharex=True, squeeze=False, layout="constrained"
        )
        for axis, panel in zip(axes[:, 0], panels, strict=True):
            _draw_panel(axis, panel, curves)
            for step in resumes:
                axis.axvline(step, color=_MARK, linestyle="--", linewidth=1)
            if best_step is not None and panel.title.startswith("validation"):
                axis.axvline(best_step, color=_FIRST, linestyle=":", linewidth=1)

        axes[-1, 0].set_xlabel("optimizer step")
        axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))

        return _svg(figure, "Loss, learning rate and validation over steps")


def _draw_panel(axis: Axes, panel: _Panel, curves: Curves) -> None:
    for number, (name, label) in enumerate(panel.curves.items()):
        _draw_series(axis, number, *curves.of(name), _label(curves, name, label))

    axis.set_title(panel.title, loc="left", fontsize=10)
    if sum(bool(curves.of(name)[0]) for name in panel.curves) > 1:
        axis.legend(fontsize=9)


def _label(curves: Curves, name: str, label: str) -> str:
    """The retriever's curve is that of the whole first stage, unless titles have a weight beside it."""
    is_first_stage = name == _OF_RETRIEVER and curves.of(name) == curves.of("eval_first_stage_ndcg@10")
    return "first stage" if is_first_stage else label


def _draw_series(axis: Axes, number: int, xs: Sequence[float], ys: Sequence[float], label: str) -> None:
    """A line of its own colour, stroke and marker; the first nine of a diagram all differ."""
    cycle = len(_SERIES)
    axis.plot(
        xs,
        ys,
        color=_SERIES[number % cycle],
        linestyle=_STROKES[(number + number // cycle) % cycle],
        marker=_MARKERS[number % cycle] if len(xs) < _MOST_MARKED_POINTS else "",
        markersize=4,
        linewidth=1.6,
        label=label,
    )


def curves_figure(curves: Mapping[str, Curves], name: str, title: str) -> str | None:
    """One curve of several runs; None where no run has it."""
    shown = {run: one.of(name) for run, one in curves.items() if one.of(name)[0]}
    if not shown:
        return None

    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
        for number, (run, (steps, values)) in enumerate(shown.items()):
            _draw_series(axis, number, steps, values, run)

        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("optimizer step")
        axis.legend(fontsize=9)

        return _svg(figure, title)


def difference_figure(rows: Sequence[Row], first: str) -> str:
    """Ranker minus what it is compared with, under this name, with intervals, metric by metric."""
    return intervals_figure(
        [row.metric for row in rows],
        [(row.difference, row.low, row.high) for row in rows],
        f"ranker − {first}, with 95% intervals",
    )


def breakdown_figure(bins: Sequence[Bin], what: str) -> str:
    """Ranker minus retriever for groups of users."""
    return intervals_figure(
        [f"{one.name}  ({one.num_users:,})" for one in bins],
        [(one.difference, one.low, one.high) for one in bins],
        f"gain in ndcg@10 by {what} (users)",
    )


def orders_figure(rows: Sequence[OrderRow]) -> str:
    """NDCG@10 in each order of the candidates: letters alone, raw and calibrated, and the ranker."""
    series = {
        "ranker": [row.final for row in rows],
        "letters alone": [row.calibrated for row in rows],
        "raw letters": [row.letters for row in rows],
    }

    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(8, 2.8), layout="constrained")
        positions = range(len(rows))
        for number, (label, values) in enumerate(series.items()):
            _draw_series(axis, number, positions, values, label)

        axis.set_xticks(list(positions), [row.order for row in rows])
        axis.set_title("ndcg@10 by order of the candidates", loc="left", fontsize=10)
        axis.legend(fontsize=9)

        return _svg(figure, "NDCG@10 by order of the candidates")


def intervals_figure(names: Sequence[str], values: Sequence[tuple[float, float, float]], title: str) -> str:
    """Differences (middle, low, high) by name."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(8, 0.7 + 0.28 * len(names)), layout="constrained")
        heights = list(range(len(names)))[::-1]
        axis.axvline(0, color=_INK, linewidth=0.8)

        for height, (middle, low, high) in zip(heights, values, strict=True):
            colour = _FIRST if low > 0 else _MARK if high < 0 else _INK
            axis.plot([low, high], [height, height], color=colour, linewidth=2, solid_capstyle="round")
            axis.plot([middle], [height], color=colour, marker="o", markersize=5)

        axis.set_yticks(heights, list(names))
        axis.set_title(title, loc="left", fontsize=10)
        axis.grid(visible=False, axis="y")

        return _svg(figure, title)


def _svg(figure: Figure, title: str) -> str:
    """The figure as an element for a page, with ids that no other figure has."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    plt.close(figure)

    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for drawn, shown in _COLOURS.items():
        text = text.replace(drawn, shown)

    prefix = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", text)

    # The page sets the width; the height follows.
    text = re.sub(r'<svg ([^>]*?)width="[^"]+"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]+"', r"<svg \1", text, count=1)

    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
