"""One run of the retriever from options to candidates: the steps of `train_retriever.py`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError, DataError
from llamarec.evaluation.metrics import CUTOFFS, METRICS, all_metrics
from llamarec.files import replacing, write_json
from llamarec.retriever.candidates import Candidates, most_candidates, with_labels, write_candidates
from llamarec.retriever.config import RetrieverConfig, defaults_for
from llamarec.retriever.cross_fitting import cross_fitted_lists, lists_from_model, remove_other_folds
from llamarec.retriever.dependents import check_can_replace, check_prompt_options
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.hard_negatives import TrainingLists, write_hard_negatives
from llamarec.retriever.scoring import label_ranks, top_k
from llamarec.vocabulary import SPLITS, Experiment, Split


@dataclass(frozen=True)
class RetrieverReport:
    """What a run came to.

    Attributes:
        num_users: By split, those with a label.
        metrics: By split, over all of them, on the whole catalogue.
        ranker_candidates: A ranker can have so many candidates per prompt.
        num_covered: By split, users whose label is among so many.
        best_epoch: Counted from 1.
        num_epochs: All that were trained.
        seconds: Of its training, over all its processes; without the trainings for `hard_negative_folds`.
    """

    num_users: dict[str, int]
    metrics: dict[str, dict[str, float]]
    ranker_candidates: int
    num_covered: dict[str, int]
    best_epoch: int
    num_epochs: int
    seconds: float


def train_retriever(
    data_config: DataConfig, config: RetrieverConfig, console: Console, *, prepare_again: bool = False
) -> RetrieverReport:
    """Prepares, trains (or goes on), writes weights, candidates and metrics.

    Args:
        data_config: Which data.
        config: Model and training.
        console: For progress.
        prepare_again: Replace data that something was trained on.

    Raises:
        LlamarecError: data are missing or do not fit the options.
    """
    data = prepare(data_config, console, again=prepare_again)
    check_top_k(data, config)
    check_histories(data)
    check_folds(data, config)
    return _train(data, data_config.experiment, config, console)


def train_retriever_for(
    num_candidates: int, data: PreparedData, data_config: DataConfig, console: Console, *, has_lists: bool
) -> RetrieverReport:
    """For a ranker with so many candidates, with the options chosen for this data set.

    Args:
        num_candidates: Of a prompt.
        data: Prepared.
        data_config: Which data.
        console: For progress.
        has_lists: Whether its training draws from hard_negatives.parquet.

    Raises:
        LlamarecError: the data do not fit.
    """
    config = RetrieverConfig(**{**defaults_for(data_config.name), "top_k": num_candidates})
    if not has_lists:
        config = replace(config, hard_negative_folds=1)
    check_top_k(data, config, flag="--num_candidates")
    check_histories(data)
    return _train(data, data_config.experiment, config, console)


def _train(data: PreparedData, experiment: Experiment, config: RetrieverConfig, console: Console) -> RetrieverReport:
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    trainer = RetrieverTrainer(
        data,
        config,
        experiment.retriever,
        console,
        before_replacing=partial(check_can_replace, experiment, data, config),
    )
    if not config.restart:
        check_prompt_options(experiment, data, config, trainer.state)
    trainer.fit()
    report = _report(trainer, data, config)
    candidates = {split: _candidates(trainer, data, config, split) for split in SPLITS}
    lists = _training_lists(trainer, data, config, experiment, console)
    _write(experiment, trainer, data, config, candidates, lists, report)
    return report


def print_report(report: RetrieverReport, console: Console) -> None:
    """A table of both splits."""
    console.print(
        f"\nbest of {report.num_epochs} epochs: {report.best_epoch}, after {report.seconds:,.0f} s of training"
    )
    table = Table(title="retriever, all users, whole catalogue", title_justify="left", show_edge=False)
    table.add_column("metric", no_wrap=True)
    for split, users in report.num_users.items():
        table.add_column(f"{split} ({users:,} users)", justify="right")
    for cutoff in CUTOFFS:
        for kind in METRICS:
            name = f"{kind}@{cutoff}"
            table.add_row(name, *(f"{report.metrics[split][name]:.4f}" for split in report.num_users))
    console.print(table)


def check_top_k(data: PreparedData, config: RetrieverConfig, *, flag: str = "--top_k") -> None:
    """Every user must have as many items left as candidates are asked for.

    Args:
        data: Prepared histories.
        config: Options.
        flag: Where the user said how many.

    Raises:
        ConfigError: somebody has not.
    """
    excluded = 0
    if config.excludes(data.has_repeats):
        excluded = max(len(np.unique(data.sequences.history(user, "test"))) for user in range(data.num_users))
    most = data.num_items - excluded
    if config.top_k > most:
        more_items = "a lower --min_item_interactions, which keeps more items"
        # Of one candidate there is nothing to rank.
        fits = most >= 2
        raise ConfigError(
            f"{flag} {config.top_k}: not every user has so many candidates",
            expected=f"at most {most}" if fits else f"more than {excluded + 1:,} items",
            found=f"{data.num_items:,} items, of which the longest history excludes {excluded:,}",
            hint=f"{flag} {most}, or {more_items}" if fits else more_items,
            retry_with=(flag, str(most)) if fits else (),
        )


def check_folds(data: PreparedData, config: RetrieverConfig) -> None:
    """There must be somebody in each part of the users.

    Raises:
        ConfigError: there are more parts than users.
    """
    most = int((data.sequences.train_ends >= 2).sum())
    if config.hard_negative_folds > most:
        raise ConfigError(
            f"--hard_negative_folds {config.hard_negative_folds}: more parts than there are users to train on",
            expected=f"at most {most:,}; two will do, each costs a further training on the users of all others",
            hint=f"--hard_negative_folds {min(2, most)}",
            retry_with=("--hard_negative_folds", str(min(2, most))),
        )


def check_histories(data: PreparedData) -> None:
    """Training, validation and test must have somebody, and a ranker something to choose from.

    Raises:
        DataError: one of them has nobody, or somebody has had nearly every item.
    """
    users: dict[str, int] = {split: len(data.sequences.users_with_label(split)) for split in SPLITS}
    users["training"] = int((data.sequences.train_ends >= 2).sum())
    empty = [name for name, count in users.items() if not count]
    if empty:
        raise DataError(
            f"{data.dataset_code}: there is no user for {' and '.join(empty)}",
            expected="users with four items or more: two for training, one for validation, one for the test",
            found=f"{data.num_users:,} users, {data.num_interactions:,} interactions",
            hint="more interactions per user, or (with --split temporal) other --temporal_validation_share and "
            "--temporal_test_share",
        )
    if most_candidates(data) < 2:
        raise DataError(
            f"{data.dataset_code}: a ranker would have no other item to tell the right one from",
            expected="items that are in nobody's whole history",
            found=f"{data.num_items:,} items, and a user with {int(data.sequences.train_ends.max()):,} of them",
            hint="a lower --min_item_interactions, which keeps more items",
        )


def _report(trainer: RetrieverTrainer, data: PreparedData, config: RetrieverConfig) -> RetrieverReport:
    exclude = config.excludes(data.has_repeats)
    ranks = {
        split: label_ranks(trainer.model, data, split, max_length=config.max_length, exclude=exclude)
        for split in SPLITS
    }
    num_candidates = min(config.top_k, most_candidates(data))
    covered = {split: (of_split > 0) & (of_split <= num_candidates) for split, of_split in ranks.items()}
    return RetrieverReport(
        ranker_candidates=num_candidates,
        num_covered={split: int(of_split.sum()) for split, of_split in covered.items()},
        num_users={split: len(of_split) for split, of_split in ranks.items()},
        metrics={split: all_metrics(of_split) for split, of_split in ranks.items()},
        best_epoch=trainer.state.best_epoch,
        num_epochs=trainer.state.epoch,
        seconds=trainer.state.seconds,
    )


def _candidates(trainer: RetrieverTrainer, data: PreparedData, config: RetrieverConfig, split: Split) -> Candidates:
    exclude = config.excludes(data.has_repeats)
    found = top_k(trainer.model, data, split, config.top_k, max_length=config.max_length, exclude=exclude)
    return with_labels(data, split, *found)


def _training_lists(
    trainer: RetrieverTrainer, data: PreparedData, config: RetrieverConfig, experiment: Experiment, console: Console
) -> TrainingLists:
    if config.hard_negative_folds == 1:
        return lists_from_model(trainer.model, data, config)
    folds, state = config.hard_negative_folds, trainer.state
    # Each is trained on the users of the other parts, for the epochs up to the best one, without validation.
    seconds = state.seconds / max(state.epoch, 1) * state.best_epoch * (folds - 1)
    console.print(
        f"the ranker's training lists, by {folds} retrievers that have not seen their users: at most "
        f"{timedelta(seconds=round(seconds))} (--hard_negative_folds 1: by this one, which has, at once)",
        soft_wrap=True,
    )
    return cross_fitted_lists(data, config, experiment.retriever, console, num_epochs=trainer.state.best_epoch)


def _write(
    experiment: Experiment,
    trainer: RetrieverTrainer,
    data: PreparedData,
    config: RetrieverConfig,
    candidates: dict[Split, Candidates],
    lists: TrainingLists,
    report: RetrieverReport,
) -> None:
    made_by = {"config": asdict(config), "best_epoch": report.best_epoch}
    # As bytes: `save_file` makes a file that nobody else may read.
    with replacing(experiment.retriever_weights) as staging:
        staging.write_bytes(save(trainer.model.state_dict()))
    write_hard_negatives(experiment, lists, data, made_by)
    remove_other_folds(experiment.retriever, config.hard_negative_folds)
    # Last: where there are candidates, the rest is there too.
    write_candidates(experiment, candidates, data, made_by)
    content: dict[str, Any] = {"dataset_code": data.dataset_code, "data_fingerprint": data.fingerprint, **made_by}
    write_json(experiment.retriever_metrics, {**content, **asdict(report)})
