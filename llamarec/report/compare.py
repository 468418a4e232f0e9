"""Runs side by side: figures of the same test users with paired intervals, and the hyperparameters that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import polars as pl

from llamarec.checkpoints.resume.compatibility import UNTRACKED
from llamarec.command import TRAIN_RANKER, command_of, typed
from llamarec.errors import ArtifactError
from llamarec.evaluation.comparison import mean_with_interval
from llamarec.evaluation.metrics import metric_values
from llamarec.report.run import RunFacts
from llamarec.report.seeds import SeedGroup, groups_by_seed
from llamarec.vocabulary import FINAL_RANK, FIRST_STAGE_RANK, LETTERS_RANK, RETRIEVER_RANK, USER

METRICS: Final = ("ndcg@10", "recall@10", "mrr@10")
# Where things lie is no difference between two trainings.
_PLACES: Final = ("dataset_code", "backup_to", "backup_every")


@dataclass(frozen=True)
class Side:
    """One run's figures over the users that all runs tested.

    Attributes:
        name: What the user typed.
        retriever: By metric, overall.
        titles: The same for retriever and titles, without the language model.
        letters: The same for the letters alone.
        ranker: The same for the final order.
        differences: By metric: ranker - the first run's ranker, and its 95% interval; of the first run none.
        num_covered: Users whose item its retriever proposed.
        tested_step: Of its adapter.
        uses_letters: Whether the letters have a weight in the final order.
    """

    name: str
    retriever: dict[str, float]
    titles: dict[str, float]
    letters: dict[str, float]
    ranker: dict[str, float]
    differences: dict[str, tuple[float, float, float]]
    num_covered: int
    tested_step: int | None
    uses_letters: bool

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """By column and metric."""
        return {"retriever": self.retriever, "titles": self.titles, "letters": self.letters, "ranker": self.ranker}


@dataclass(frozen=True)
class ComparedRuns:
    """Attributes:
    num_users: Whom all runs tested.
    same_candidates: All had the same retriever's proposals to order.
    sides: In the order of the command.
    hyperparameters: By name, one value a run, where not all are equal.
    groups: Of runs that differ in their seeds only.
    """

    num_users: int
    same_candidates: bool
    sides: list[Side]
    hyperparameters: dict[str, list[Any]]
    groups: list[SeedGroup]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def compare_runs(runs: Mapping[str, RunFacts]) -> ComparedRuns:
    """Compares finished runs of one data set.

    Args:
        runs: By what the user typed, the first one being what the others are compared with.

    Raises:
        ArtifactError: one of them was not tested, or they share no users.
    """
    tests = {name: _tested(name, run) for name, run in runs.items()}
    fingerprints = {name: (run.ranker or {}).get("data_fingerprint") for name, run in runs.items()}
    if len(set(fingerprints.values())) > 1:
        raise ArtifactError(
            "these runs were not trained on the same data",
            found="\n            ".join(
                f"{name}: data fingerprint {str(mark)[:12]}" for name, mark in fingerprints.items()
            ),
            hint="compare runs of one data set that was prepared with the same flags",
        )
    users = _common_users(list(tests.values()))
    if not len(users):
        raise ArtifactError(
            "these runs tested no user in common", hint="test them on the same users (--max_test_users 0: all)"
        )
    paired = [users.join(test, on=USER, how="left", maintain_order="left") for test in tests.values()]
    sides = [_side(name, run, test, paired[0]) for (name, run), test in zip(runs.items(), paired, strict=True)]
    # Of the covered users of the first run the retriever's rank tells whether it is the same retriever.
    ranks = [test[RETRIEVER_RANK].to_list() for test in paired]
    options = [_options(run) for run in runs.values()]
    # Without a checkpoint nobody knows how long a run was trained, and at what rate.
    whole = [one if run.manifest is not None else {} for one, run in zip(options, runs.values(), strict=True)]
    groups = groups_by_seed([side.figures for side in sides], paired, whole)
    return ComparedRuns(len(users), all(one == ranks[0] for one in ranks), sides, _differing(options), groups)


def _tested(name: str, run: RunFacts) -> pl.DataFrame:
    if run.test is None or run.metrics is None:
        raise ArtifactError(
            f"{name}: this run was not tested",
            expected="test.parquet and metrics.json, which a run writes at its end",
            hint=f"{typed(command_of(TRAIN_RANKER))} ... --resume_from_checkpoint: it goes on, or, at its end, "
            "tests again",
        )
    return run.test


def _common_users(tests: Sequence[pl.DataFrame]) -> pl.DataFrame:
    users = tests[0].select(USER)
    for test in tests[1:]:
        users = users.join(test.select(USER), on=USER, how="semi", maintain_order="left")
    return users


def _side(name: str, run: RunFacts, test: pl.DataFrame, first: pl.DataFrame) -> Side:
    differences = {} if test is first else {metric: _difference(metric, test, first) for metric in METRICS}
    return Side(
        name=name,
        retriever=_means(test, RETRIEVER_RANK),
        # A run of an earlier version had no titles.
        titles=_means(test, FIRST_STAGE_RANK if FIRST_STAGE_RANK in test.columns else RETRIEVER_RANK),
        letters=_means(test, LETTERS_RANK),
        ranker=_means(test, FINAL_RANK),
        differences=differences,
        num_covered=int((test[RETRIEVER_RANK] > 0).sum()),
        tested_step=(run.metrics or {}).get("tested_step"),
        uses_letters=bool(((run.metrics or {}).get("fusion") or {}).get("letters")),
    )


def without_letters(sides: Sequence[Side]) -> str:
    """Which runs' order says nothing of their language model; an empty text where all use it."""
    numbers = [str(number) for number, side in enumerate(sides, start=1) if not side.uses_letters]
    if not numbers:
        return ""
    runs = f"run{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
    return f"{runs}: the letters have no weight, so the ranker's order is that of the column titles"


def _means(test: pl.DataFrame, column: str) -> dict[str, float]:
    return {metric: float(metric_values(metric, test[column].to_numpy()).mean()) for metric in METRICS}


def _difference(metric: str, test: pl.DataFrame, first: pl.DataFrame) -> tuple[float, float, float]:
    ours, theirs = (metric_values(metric, one[FINAL_RANK].to_numpy()) for one in (test, first))
    return mean_with_interval(ours - theirs)


def _differing(options: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    # What only one of them knows of (a version, a run without checkpoints) is no difference.
    names = sorted(set.intersection(*(set(one) for one in options)))
    values = {name: [one[name] for one in options] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _options(run: RunFacts) -> dict[str, Any]:
    """Hyperparameters of both stages, but for places."""
    return {name: value for name, value in _all_options(run).items() if name not in UNTRACKED.union(_PLACES)}


def _all_options(run: RunFacts) -> dict[str, Any]:
    of_retriever = (run.metrics or {}).get("retriever_config") or {}
    known = {f"retriever: {name}": value for name, value in of_retriever.items() if name != "restart"}
    if run.manifest is not None:
        # What a finished run was tested with stands in its metrics: another test saves no checkpoint.
        tested = (run.metrics or {}).get("config") or {}
        return {**run.manifest.hyperparameters, **tested, **known}
    return {**(run.ranker or {}).get("config", {}), **known}
