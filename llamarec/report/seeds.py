"""Runs that differ in nothing but their seeds: what they come to together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from llamarec.evaluation.comparison import mean_with_interval
from llamarec.evaluation.metrics import metric_values
from llamarec.vocabulary import FINAL_RANK, RETRIEVER_RANK

_SEEDS: Final = frozenset({"seed", "data_seed", "retriever: seed"})


@dataclass(frozen=True)
class SeedGroup:
    """Several runs of one setting.

    Attributes:
        runs: Their numbers, from 1.
        columns: By name (retriever, titles, letters, ranker) and metric: mean and standard deviation over the runs.
        gains: By metric: ranker - retriever, each user's mean over the runs, and its 95% interval over users.
    """

    runs: list[int]
    columns: dict[str, dict[str, tuple[float, float]]]
    gains: dict[str, tuple[float, float, float]]


def groups_by_seed(
    figures: Sequence[Mapping[str, Mapping[str, float]]],
    tests: Sequence[pl.DataFrame],
    options: Sequence[Mapping[str, Any]],
) -> list[SeedGroup]:
    """The settings that more than one run has.

    Args:
        figures: Of each run, by column and metric.
        tests: Of each run, with the same users in the same rows.
        options: Of each run all that it was trained with, but for places; empty where that is not known.
    """
    groups: list[list[int]] = []
    for run, one in enumerate(options):
        alike = next((runs for runs in groups if _setting(options[runs[0]]) == _setting(one)), None)
        if alike is None:
            groups.append([run])
        elif _seeds(one) not in [_seeds(options[other]) for other in alike]:
            # A copy of a run is no other seed.
            alike.append(run)
    return [_group(runs, figures, tests) for runs in groups if len(runs) > 1 and options[runs[0]]]


def _setting(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _SEEDS}


def _seeds(options: Mapping[str, Any]) -> dict[str, Any]:
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
