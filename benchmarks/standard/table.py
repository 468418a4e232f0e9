"""The table on screen: one for each set and split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Console

from benchmarks.standard.protocol import METRICS
from benchmarks.standard.published import published
from benchmarks.standard.summary import Entry, Group, Summary

_NAME: Final = 40
_COST: Final = f"{'seeds':>6} {'fit s':>7} {'users/s':>9} {'peak GB':>8}"


def print_summary(summary: Summary, console: Console) -> None:
    """Prints all tables."""
    for group in summary.groups:
        for line in _lines(group):
            console.print(line, soft_wrap=True)


def _lines(group: Group) -> Iterator[str]:
    yield ""
    yield f"{group.set_code}, {group.split}: {group.counts['test']:,} test users, {group.counts['items']:,} items"
    yield (
        f"{'system (*: no worse than the best)':<{_NAME}} " + " ".join(f"{name:>16}" for name in METRICS) + f" {_COST}"
    )

    for entry in group.entries:
        yield _line(entry)
    if group.split == "leave_one_out":
        for name, figures in published().figures.get(group.set_code, {}).items():
            cells = [f"{figures[metric]:.4f}        " if metric in figures else "" for metric in METRICS]
            yield (f"{'published: ' + name:<{_NAME}} " + " ".join(f"{cell:>16}" for cell in cells)).rstrip()


def _line(entry: Entry) -> str:
    estimates = [entry.estimates[metric] for metric in METRICS]
    figures = " ".join(f"{one.mean:>8.4f} ±{(one.high - one.low) / 2:.4f}" for one in estimates)
    cost = f"{entry.fit_seconds:>7,.0f} {entry.users_per_second:>9,.0f} {entry.peak_bytes / 1e9:>8.1f}"
    return f"{entry.title + (' *' if entry.is_with_best else ''):<{_NAME}} {figures} {entry.seeds:>6} {cost}"
