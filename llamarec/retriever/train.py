"""One run of the retriever from options to candidates: the steps of `train_retriever.py`."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError
from llamarec.evaluation.metrics import CUTOFFS, METRICS, all_metrics
from llamarec.files import write_json
from llamarec.retriever.candidates import Candidates, with_labels, write_candidates
from llamarec.retriever.config import RetrieverConfig, defaults_for
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.scoring import label_ranks, top_k
from llamarec.vocabulary import SPLITS, Experiment, Split

WEIGHTS_FILE: Final = "retriever.safetensors"
METRICS_FILE: Final = "metrics.json"


@dataclass(frozen=True)
class RetrieverReport:
    """What a run came to; `metrics` by split, over all users with a label, on the whole catalogue."""

    num_users: dict[str, int]
    metrics: dict[str, dict[str, float]]
    best_epoch: int
    num_epochs: int
    seconds: float


def train_retriever(data_config: DataConfig, config: RetrieverConfig, console: Console) -> RetrieverReport:
    """Prepares, trains (or goes on), writes weights, candidates and metrics.

    Raises:
        LlamarecError: data are missing or do not fit the options.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    data, experiment = prepare(data_config, console), data_config.experiment
    check_top_k(data, config)
    trainer = RetrieverTrainer(data, config, experiment.retriever, console)
    trainer.fit()
    report = _report(trainer, data, config)
    candidates = {split: _candidates(trainer, data, config, split) for split in SPLITS}
    _write(experiment, trainer, data, config, candidates, report)
    return report


def train_retriever_with_defaults(data_config: DataConfig, console: Console) -> RetrieverReport:
    """With the options chosen for this data set."""
    return train_retriever(data_config, RetrieverConfig(**defaults_for(data_config.name)), console)


def print_report(report: RetrieverReport, console: Console) -> None:
    """A table of both splits."""
    console.print(
        f"\nbest of {report.num_epochs} epochs: {report.best_epoch}, after {report.seconds:,.0f} s of training in all"
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


def check_top_k(data: PreparedData, config: RetrieverConfig) -> None:
    """Every user must have as many items left as candidates are asked for."""
    excluded = 0
    if config.excludes(data.has_repeats):
        excluded = max(len(np.unique(data.sequences.history(user, "test"))) for user in range(data.num_users))
    if config.top_k > data.num_items - excluded:
        raise ConfigError(
            f"--top_k {config.top_k}: not every user has so many candidates",
            expected=f"at most {data.num_items - excluded}",
            found=f"{data.num_items:,} items, of which the longest history excludes {excluded:,}",
            hint="a smaller --top_k, or --exclude_history never",
        )


def _report(trainer: RetrieverTrainer, data: PreparedData, config: RetrieverConfig) -> RetrieverReport:
    exclude = config.excludes(data.has_repeats)
    ranks = {
        split: label_ranks(trainer.model, data, split, max_length=config.max_length, exclude=exclude)
        for split in SPLITS
    }
    return RetrieverReport(
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


def _write(
    experiment: Experiment,
    trainer: RetrieverTrainer,
    data: PreparedData,
    config: RetrieverConfig,
    candidates: dict[Split, Candidates],
    report: RetrieverReport,
) -> None:
    folder = experiment.retriever
    made_by = {"config": asdict(config), "best_epoch": report.best_epoch}
    staging = folder / f"{WEIGHTS_FILE}.tmp"
    save_file(trainer.model.state_dict(), staging)
    os.replace(staging, folder / WEIGHTS_FILE)
    write_candidates(experiment, candidates, data, made_by)
    content: dict[str, Any] = {"dataset_code": data.dataset_code, "data_fingerprint": data.fingerprint, **made_by}
    write_json(folder / METRICS_FILE, {**content, **asdict(report)})
