"""Runs side by side: metrics over the same test users with paired intervals, and the hyperparameters that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import polars as pl

from llamarec.checkpoints.resume.compatibility import UNTRACKED
from llamarec.command import TRAIN_RANKER, command_of, typed
from llamarec.errors import ArtifactError
from llamarec.evaluation.comparison import mean_with_interval
from llamarec.evaluation.metrics import metric_values
from llamarec.ranker.options.config import LETTERS
from llamarec.report.run import RunFacts
from llamarec.report.seeds import SeedGroup, groups_by_seed
from llamarec.vocabulary import FINAL_RANK, FIRST_STAGE_RANK, LETTERS_RANK, RETRIEVER_RANK, USER

METRICS: Final = ("ndcg@10", "recall@10", "mrr@10")
# Paths do not make two trainings different.
_PATHS: Final = ("dataset_code", "backup_to", "backup_every", "mirror")


@dataclass(frozen=True)
class Side:
    """One run's metrics over the users that all runs tested.

    Attributes:
        name: The run as the user typed it.
        retriever: Overall metrics of the retriever (the whole first stage, where it has experts), by name.
        titles: Metrics of retriever and titles, without the language model.
        letters: Metrics of the language model alone.
        ranker: Metrics of the final order.
        differences: By metric: this ranker minus the first run's, and the 95% interval; empty for the first run.
        num_covered: Number of users whose next item the retriever proposed.
        tested_step: Optimizer step of the tested adapter.
        uses_letters: Whether the letters (or, with items, the language model) have a weight in the final order.
        readout: What the run was trained for: letters or items.
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
    readout: str

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """Metrics by column."""
        return {"retriever": self.retriever, "titles": self.titles, "letters": self.letters, "ranker": self.ranker}


@dataclass(frozen=True)
class ComparedRuns:
    """Attributes:
    num_users: Number of users that all runs tested.
    same_candidates: Whether all runs ordered the same candidates.
    sides: The runs, in the order of the command.
    hyperparameters: Values that are not equal in all runs, by name, one per run.
    groups: Runs that differ only in their seeds.
    """

    num_users: int
    same_candidates: bool
    sides: list[Side]
    hyperparameters: dict[str, list[object]]
    groups: list[SeedGroup]

    def as_dict(self) -> dict[str, object]:
        """The fields, for --json."""
        return asdict(self)


def compare_runs(runs: Mapping[str, RunFacts]) -> ComparedRuns:
    """Compares finished runs of one data set.

    Args:
        runs: By name as the user typed it; the others are compared with the first.

    Raises:
        ArtifactError: a run was not tested, or the runs tested no user in common.
    """
    tests = {name: _tested(name, run) for name, run in runs.items()}
    fingerprints = {name: (run.ranker or {}).get("data_fingerprint") for name, run in runs.items()}
    if len(set(fingerprints.values())) > 1:
        raise ArtifactError(
            "these runs were not trained on the same data",
            found=[f"{name}: data fingerprint {str(mark)[:12]}" for name, mark in fingerprints.items()],
            hint="compare runs of one data set, prepared with the same flags",
        )

    users = _common_users(list(tests.values()))
    if not len(users):
        raise ArtifactError(
            "these runs tested no user in common", hint="test them on the same users (--max_test_users 0: all)"
        )

    paired = [users.join(test, on=USER, how="left", maintain_order="left") for test in tests.values()]
    sides = [_side(name, run, test, paired[0]) for (name, run), test in zip(runs.items(), paired, strict=True)]
    # Equal ranks of all next items mean the same candidates.
    ranks = [test[RETRIEVER_RANK].to_list() for test in paired]
    options = [_options(run) for run in runs.values()]
    # Without a checkpoint the number of steps and the learning rate are unknown.
    whole = [one if run.manifest is not None else {} for one, run in zip(options, runs.values(), strict=True)]
    groups = groups_by_seed([side.figures for side in sides], paired, whole)

    return ComparedRuns(len(users), all(one == ranks[0] for one in ranks), sides, _differing(options), groups)


def _tested(name: str, run: RunFacts) -> pl.DataFrame:
    if run.test is None or run.metrics is None:
        raise ArtifactError(
            f"{name}: this run was not tested",
            expected="test.parquet and metrics.json, which a run writes when it ends",
            hint=["to finish and test it:", f"{typed(command_of(TRAIN_RANKER))} ... --resume_from_checkpoint"],
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
        # Runs of earlier versions have no titles.
        titles=_means(test, FIRST_STAGE_RANK if FIRST_STAGE_RANK in test.columns else RETRIEVER_RANK),
        letters=_means(test, LETTERS_RANK),
        ranker=_means(test, FINAL_RANK),
        differences=differences,
        num_covered=int((test[RETRIEVER_RANK] > 0).sum()),
        tested_step=(run.metrics or {}).get("tested_step"),
        uses_letters=bool(((run.metrics or {}).get("fusion") or {}).get("letters")),
        readout=str(((run.metrics or {}).get("config") or {}).get("readout", LETTERS)),
    )


def without_letters(sides: Sequence[Side]) -> str:
    """Runs whose final order ignores their language model, as a sentence; empty if all use it."""
    numbers = [str(number) for number, side in enumerate(sides, start=1) if not side.uses_letters]
    if not numbers:
        return ""
    runs = f"Run{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
    column = shown_columns(sides).get("titles", "first stage")
    return f"{runs}: the language model has no weight, so the ranker's order is that of the column {column}."


def shown_columns(sides: Sequence[Side]) -> dict[str, str]:
    """Headings of the columns that the tables show, by the name of their figures."""
    readouts = {side.readout for side in sides}
    alone = readouts.pop() if len(readouts) == 1 else "model alone"
    if all(side.titles == side.retriever for side in sides):
        return {"retriever": "first stage", "letters": alone, "ranker": "ranker"}
    return {"retriever": "retriever", "titles": "titles", "letters": alone, "ranker": "ranker"}


def _means(test: pl.DataFrame, column: str) -> dict[str, float]:
    return {metric: float(metric_values(metric, test[column].to_numpy()).mean()) for metric in METRICS}


def _difference(metric: str, test: pl.DataFrame, first: pl.DataFrame) -> tuple[float, float, float]:
    ours, theirs = (metric_values(metric, one[FINAL_RANK].to_numpy()) for one in (test, first))
    return mean_with_interval(ours - theirs)


def _differing(options: Sequence[Mapping[str, object]]) -> dict[str, list[object]]:
    # Only values that every run knows are compared: earlier versions and runs without checkpoints know fewer.
    names = sorted(set.intersection(*(set(one) for one in options)))
    values = {name: [one[name] for one in options] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _options(run: RunFacts) -> dict[str, object]:
    """Hyperparameters of both stages, except paths."""
    return {name: value for name, value in _all_options(run).items() if name not in UNTRACKED.union(_PATHS)}


def _all_options(run: RunFacts) -> dict[str, object]:
    of_retriever = (run.metrics or {}).get("retriever_config") or {}
    known = {f"retriever: {name}": value for name, value in of_retriever.items() if name != "restart"}
    if run.manifest is not None:
        # A finished run can be tested again with other options; only its metrics record them.
        tested = (run.metrics or {}).get("config") or {}
        return {**run.manifest.hyperparameters, **tested, **known}
    return {**(run.ranker or {}).get("config", {}), **known}
