"""What the files say together: means over seeds, 95% intervals over users, and what is no worse than the best."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.standard.protocol import METRICS, System
from benchmarks.standard.results import Result, Row, Task
from benchmarks.standard.systems import system_of
from llamarec.evaluation.comparison import mean_with_interval, paired_bootstrap
from llamarec.evaluation.metrics import metric_values

MAIN: str = METRICS[0]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over users and seeds, and its 95% interval: bootstrap over users, each the mean over the seeds."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of a set and split.

    Attributes:
        row: Its name.
        title: What a reader sees.
        is_ours: Whether it is part of this project.
        seeds: How many were measured.
        estimates: By metric.
        seed_range: Largest minus smallest mean NDCG@10 of a seed.
        is_with_best: Whether it is the best of its set and split, or the interval of its paired difference in NDCG@10
            to the best holds zero.
        fit_seconds: Mean over seeds.
        users_per_second: Scored, whole catalogue.
        peak_bytes: Largest over seeds.
        notes: Of the first seed.
        machine: Of the first seed.
        commits: Of all seeds.
    """

    row: str
    title: str
    is_ours: bool
    seeds: int
    estimates: dict[str, Estimate]
    seed_range: float
    is_with_best: bool
    fit_seconds: float
    users_per_second: float
    peak_bytes: int
    notes: dict[str, str | int | float]
    machine: str
    commits: list[str]


@dataclass(frozen=True, kw_only=True)
class Group:
    """All entries of one set and split, in the order of the table."""

    set_code: str
    split: str
    counts: dict[str, int]
    digests: dict[str, str]
    entries: list[Entry]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the page is made of."""

    groups: list[Group]

    def group(self, set_code: str, split: str) -> Group | None:
        """The entries of a set and split; None where nothing was measured."""
        return next((one for one in self.groups if (one.set_code, one.split) == (set_code, split)), None)

    @property
    def sets(self) -> list[str]:
        """Codes of the sets, in the order of the measurement."""
        return list(dict.fromkeys(group.set_code for group in self.groups))


def summarised(results: Mapping[Task, Result]) -> Summary:
    """The summary of these measurements, which are of the same data for each set and split."""
    groups = dict.fromkeys((task.set_code, task.split) for task in results)
    return Summary(
        groups=[
            _group(*group, {task: one for task, one in results.items() if (task.set_code, task.split) == group})
            for group in groups
        ]
    )


def _group(set_code: str, split: str, results: Mapping[Task, Result]) -> Group:
    by_row = {
        (name, row): seeds
        for name in dict.fromkeys(task.system for task in results)
        for row in system_of(name).titles
        if (seeds := [one for task, one in results.items() if task.system == name and row in one.rows])
    }
    values = {key: _values([one.rows[key[1]] for one in seeds], MAIN) for key, seeds in by_row.items()}
    best = max(values.values(), key=lambda one: float(one.mean()))

    first = next(iter(results.values()))
    return Group(
        set_code=set_code,
        split=split,
        counts=first.counts,
        digests=first.digests,
        entries=[
            _entry(system_of(name), row, seeds, is_with_best=not is_below(values[name, row], best))
            for (name, row), seeds in by_row.items()
        ],
    )


def _entry(system: System, row: str, seeds: Sequence[Result], *, is_with_best: bool) -> Entry:
    rows = [one.rows[row] for one in seeds]
    by_seed = [float(metric_values(MAIN, one.as_array()).mean()) for one in rows]
    num_users = len(rows[0].as_array())

    return Entry(
        row=row,
        title=system.titles[row],
        is_ours=system.is_ours,
        seeds=len(seeds),
        estimates={metric: _estimate(_values(rows, metric)) for metric in METRICS},
        seed_range=max(by_seed) - min(by_seed),
        is_with_best=is_with_best,
        fit_seconds=statistics.fmean(one.rows[row].fit_seconds or one.fit_seconds for one in seeds),
        users_per_second=num_users / statistics.fmean(one.score_seconds for one in rows),
        peak_bytes=max(one.peak_bytes for one in seeds),
        notes=seeds[0].notes,
        machine=seeds[0].machine,
        commits=sorted({one.commit for one in seeds}),
    )


def _values(rows: Sequence[Row], metric: str) -> NDArray[np.float64]:
    """[users] mean over the seeds."""
    values_U: NDArray[np.float64] = np.mean([metric_values(metric, row.as_array()) for row in rows], axis=0)
    return values_U


def _estimate(values_U: NDArray[np.float64]) -> Estimate:
    mean, low, high = mean_with_interval(values_U)
    return Estimate(mean=mean, low=low, high=high)


def is_below(values_U: NDArray[np.float64], best_U: NDArray[np.float64]) -> bool:
    """Whether the 95% interval of the paired difference lies below zero."""
    distinct, counts = np.unique(values_U - best_U, return_counts=True)
    _, high = paired_bootstrap(distinct[:, None], counts)
    return bool(high[0] < 0)
