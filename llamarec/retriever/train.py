"""A run of the retriever, from options to candidates: the steps of `train_retriever.py`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save

from llamarec.checkpoints.storage.durable import sha256_of_bytes
from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.metrics import CUTOFFS, METRICS, all_metrics
from llamarec.experts.weights import EXPERTS_FILE, ExpertWeights
from llamarec.files import json_bytes
from llamarec.retriever.assess import Assessed
from llamarec.retriever.candidates import Candidates, candidates_file, most_candidates, with_labels
from llamarec.retriever.checks import check_folds, check_histories, check_top_k
from llamarec.retriever.config import RetrieverConfig, defaults_for
from llamarec.retriever.cross_fitting import cross_fitted_lists, lists_from_retriever, remove_other_folds
from llamarec.retriever.dependent_rankers import check_can_replace, check_prompt_options
from llamarec.retriever.expert_stage import ExpertStage
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.hard_negatives import TrainingLists, hard_negatives_file
from llamarec.retriever.members import MEMBERS_FOLDER, further_members, member_weights, remove_beyond
from llamarec.retriever.published import DIGEST, digest_of, finish_interrupted, locked, publish
from llamarec.retriever.refit import refitted, remove_other_refits
from llamarec.vocabulary import SPLITS, Experiment, Split


@dataclass(frozen=True, kw_only=True)
class RetrieverReport:
    """Results of a run; the content of metrics.json.

    Attributes:
        num_users: By split, the users with a label.
        metrics: By split, means over these users, ranked over the whole catalogue by the weighted sum of experts.
        ranker_candidates: Largest number of candidates a ranker's prompt can have.
        num_covered: By split, the users whose label is among so many candidates.
        best_epoch: Counted from 1.
        num_epochs: Epochs trained.
        seconds: Time of the first member's training over all processes.
        experts: Weight, gain on validation with its standard error, and metrics by split of each expert alone.
        weight_prompts: Validation prompts that the weights were fitted on.
    """

    num_users: dict[str, int]
    metrics: dict[str, dict[str, float]]
    ranker_candidates: int
    num_covered: dict[str, int]
    best_epoch: int
    num_epochs: int
    seconds: float
    experts: list[dict[str, Any]] = field(default_factory=list)
    weight_prompts: int = 0


def train_retriever(
    data_config: DataConfig, config: RetrieverConfig, console: Console, *, prepare_again: bool = False
) -> RetrieverReport:
    """Prepares the data, trains the retriever or continues it, writes weights, candidates and metrics.

    Args:
        data_config: Options of the data stage.
        config: Options of the retriever.
        console: Receives the progress.
        prepare_again: Replace prepared data that a model was trained on.

    Raises:
        LlamarecError: the data is missing or does not fit the options.
    """
    data = prepare(data_config, console, again=prepare_again)

    check_top_k(data, config)
    check_histories(data)
    check_folds(data, config)

    return _train(data, data_config.experiment, config, console)


def train_retriever_for(
    num_candidates: int, data: PreparedData, data_config: DataConfig, console: Console, *, has_lists: bool
) -> RetrieverReport:
    """Trains the retriever that a ranker needs, with the defaults of the data set.

    Args:
        num_candidates: Candidates of a prompt.
        data: Prepared data.
        data_config: Options of the data stage.
        console: Receives the progress.
        has_lists: Whether the ranker's training draws from hard_negatives.parquet.

    Raises:
        LlamarecError: the data does not fit.
    """
    config = RetrieverConfig(**defaults_for(data_config.name), top_k=num_candidates)
    if not has_lists:
        config = replace(config, hard_negative_folds=1)

    check_top_k(data, config, flag="--num_candidates")
    check_histories(data)

    return _train(data, data_config.experiment, config, console)


def _train(data: PreparedData, experiment: Experiment, config: RetrieverConfig, console: Console) -> RetrieverReport:
    if config.num_threads:
        torch.set_num_threads(config.num_threads)

    finish_interrupted(experiment.retriever)
    with locked(experiment):
        return _train_locked(data, experiment, config, console)


def _train_locked(
    data: PreparedData, experiment: Experiment, config: RetrieverConfig, console: Console
) -> RetrieverReport:
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
    trainers = [trainer, *further_members(data, config, experiment.retriever, console)]

    again = {
        asked: refitted(asked, data, config, experiment.retriever, console, trainers)
        for asked in config.refits(data.has_cut)
    }

    stage = ExpertStage(data, config, trainers, again)
    stage.fit(console)
    assessed = {split: stage.assess(split) for split in SPLITS}
    candidates = {
        split: with_labels(data, split, one.user_ids, one.item_ids, one.scores) for split, one in assessed.items()
    }
    report = _report(trainer, data, config, stage.weights, assessed)
    _print_left_out(candidates, report, config, console)

    lists = _training_lists(stage, data, config, experiment, console)
    _write(experiment, stage, data, config, candidates, lists, report)
    return report


def print_report(report: RetrieverReport, console: Console) -> None:
    """Prints the metrics of both splits as a table."""
    console.print(
        f"\nbest epoch: {report.best_epoch} of {report.num_epochs}, after {report.seconds:,.0f} s of training"
    )

    table = Table(title="retriever: all users, whole catalogue", title_justify="left", show_edge=False)
    table.add_column("metric", no_wrap=True)
    for split, users in report.num_users.items():
        table.add_column(f"{split} ({users:,} users)", justify="right")
    for cutoff in CUTOFFS:
        for kind in METRICS:
            name = f"{kind}@{cutoff}"
            table.add_row(name, *(f"{report.metrics[split][name]:.4f}" for split in report.num_users))

    console.print(table)
    if len(report.experts) > 1:
        console.print(_experts_table(report))


def _experts_table(report: RetrieverReport) -> Table:
    title = f"\nwhat the order is made of: weights of {report.weight_prompts:,} validation prompts"
    table = Table(title=title, title_justify="left", show_edge=False)
    for column in ("expert", "weight", "adds, in nats a prompt", "alone, test ndcg@10"):
        table.add_column(column, justify="left" if column == "expert" else "right", no_wrap=True)

    for expert in report.experts:
        table.add_row(
            expert["name"],
            f"{expert['weight']:.3f}" if expert["weight"] else "-",
            f"{expert['gain']:+.4f} ± {expert['error']:.4f}",
            f"{expert['metrics']['test']['ndcg@10']:.4f}",
        )
    return table


def _print_left_out(
    candidates: dict[Split, Candidates], report: RetrieverReport, config: RetrieverConfig, console: Console
) -> None:
    """Who has no candidates: people who took nearly everything."""
    for split, of_split in candidates.items():
        if missing := report.num_users[split] - len(of_split.user_ids):
            console.print(
                f"candidates   {missing:,} of {report.num_users[split]:,} users of the {split} are left out: they took "
                f"all but fewer than {config.top_k} items (--top_k)",
                soft_wrap=True,
            )


def _report(
    trainer: RetrieverTrainer,
    data: PreparedData,
    config: RetrieverConfig,
    weights: ExpertWeights,
    assessed: dict[Split, Assessed],
) -> RetrieverReport:
    num_candidates = min(config.top_k, most_candidates(data))
    covered = {
        split: (one.ranks > 0)
        & (one.ranks <= num_candidates)
        & np.isin(data.sequences.users_with_label(split), one.user_ids)
        for split, one in assessed.items()
    }
    experts = [
        {
            **asdict(expert),
            "metrics": {split: all_metrics(one.ranks_alone[expert.name]) for split, one in assessed.items()},
        }
        for expert in weights.experts
    ]

    return RetrieverReport(
        ranker_candidates=num_candidates,
        num_covered={split: int(found.sum()) for split, found in covered.items()},
        num_users={split: len(one.ranks) for split, one in assessed.items()},
        metrics={split: all_metrics(one.ranks) for split, one in assessed.items()},
        best_epoch=trainer.state.best_epoch,
        num_epochs=trainer.state.epoch,
        seconds=trainer.state.seconds,
        experts=experts,
        weight_prompts=weights.num_prompts,
    )


def _training_lists(
    stage: ExpertStage, data: PreparedData, config: RetrieverConfig, experiment: Experiment, console: Console
) -> TrainingLists:
    trainer = stage.trainers[0]
    order = None if config.experts == "none" else stage.sum_for_users
    if config.hard_negative_folds == 1:
        return lists_from_retriever(stage.models["validation"], data, config, order)

    folds = config.hard_negative_folds
    # Each fold's retriever trains on the users of the others, for the epochs up to the best one, without validation.
    seconds = trainer.state.seconds_to_best * (folds - 1)
    console.print(
        f"training {folds} more retrievers for the ranker's training lists, each without the users of its lists: "
        f"at most {timedelta(seconds=round(seconds))} (--hard_negative_folds 1 skips this)",
        soft_wrap=True,
    )
    return cross_fitted_lists(
        data,
        config,
        experiment.retriever,
        console,
        num_epochs=trainer.state.best_epoch,
        order=order,
    )


def _write(
    experiment: Experiment,
    stage: ExpertStage,
    data: PreparedData,
    config: RetrieverConfig,
    candidates: dict[Split, Candidates],
    lists: TrainingLists,
    report: RetrieverReport,
) -> None:
    first = experiment.retriever_weights
    ordering = {
        member_weights(first, number, asked).name: save(model.state_dict())
        for asked, models in stage.models.items()
        for number, model in enumerate(models, start=1)
    }
    if config.experts != "none":
        ordering[EXPERTS_FILE] = stage.weights.as_bytes()
    made_by = {
        "config": asdict(config),
        "best_epoch": report.best_epoch,
        # The lists name what made them.
        DIGEST: digest_of({name: sha256_of_bytes(content) for name, content in ordering.items()}),
    }
    data_of = {"dataset_code": data.dataset_code, "data_fingerprint": data.fingerprint}

    files = {
        **ordering,
        experiment.hard_negatives.name: hard_negatives_file(lists, data, made_by),
        experiment.candidates.name: candidates_file(candidates, data, made_by),
        experiment.retriever_metrics.name: json_bytes({**data_of, **made_by, **asdict(report)}),
    }
    publish(experiment, files, data_of)
    remove_other_folds(experiment.retriever, config.hard_negative_folds)
    remove_beyond(experiment.retriever / MEMBERS_FOLDER, config.num_members)
    remove_other_refits(experiment.retriever, {asked: len(models) for asked, models in stage.models.items()})
