"""Runs that differ only in their seeds: mean, deviation and gain over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from llamarec.evaluation.comparison import mean_with_interval
from llamarec.evaluation.metrics import metric_values
from llamarec.vocabulary import FINAL_RANK, RETRIEVER_RANK

_SEEDS: Final = frozenset({"seed", "data_seed", "retriever: seed"})


@dataclass(frozen=True)
class SeedGroup:
    """Several runs with the same options.

    Attributes:
        runs: Their numbers, from 1.
        columns: Mean and standard deviation over the runs, by column (retriever, titles, letters, ranker) and metric.
        gains: Ranker minus retriever, averaged over the runs for each user, and the 95% interval over users, by metric.
    """

    runs: list[int]
    columns: dict[str, dict[str, tuple[float, float]]]
    gains: dict[str, tuple[float, float, float]]


def groups_by_seed(
    figures: Sequence[Mapping[str, Mapping[str, float]]],
    tests: Sequence[pl.DataFrame],
    options: Sequence[Mapping[str, object]],
) -> list[SeedGroup]:
    """Groups of two and more runs that differ only in their seeds.

    Args:
        figures: Metrics of each run, by column and metric.
        tests: Test results of each run, with the same users in the same rows.
        options: All options of each run except paths; empty if they are unknown.
    """
    groups: list[list[int]] = []
    for run, one in enumerate(options):
        alike = next((runs for runs in groups if _setting(options[runs[0]]) == _setting(one)), None)
        if alike is None:
            groups.append([run])
        elif _seeds(one) not in [_seeds(options[other]) for other in alike]:
            # A copy of a run is not counted.
            alike.append(run)

    return [_group(runs, figures, tests) for runs in groups if len(runs) > 1 and options[runs[0]]]


def _setting(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name not in _SEEDS}


def _seeds(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name in _SEEDS}


def _group(
    runs: list[int], figures: Sequence[Mapping[str, Mapping[str, float]]], tests: Sequence[pl.DataFrame]
) -> SeedGroup:
    first = figures[runs[0]]
    columns = {
        name: {metric: _spread([figures[run][name][metric] for run in runs]) for metric in metrics}
        for name, metrics in first.items()
    }
    gains = {metric: _gain(metric, [tests[run] for run in runs]) for metric in first["ranker"]}
    return SeedGroup([run + 1 for run in runs], columns, gains)


def _spread(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1))


def _gain(metric: str, tests: Sequence[pl.DataFrame]) -> tuple[float, float, float]:
    of_runs = [
        metric_values(metric, test[FINAL_RANK].to_numpy()) - metric_values(metric, test[RETRIEVER_RANK].to_numpy())
        for test in tests
    ]
    return mean_with_interval(np.mean(of_runs, axis=0))
