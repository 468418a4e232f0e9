"""A run of the ranker that was killed once, and one that was not, with all their files."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.training.run import train_ranker
from llamarec.report.run import RunFacts, read_run
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.train import train_retriever
from llamarec.vocabulary import Experiment

QUIET = Console(quiet=True)


def argv(folder: Path, *more: str) -> list[str]:
    """Of a quick run over the table in `folder`."""
    return [
        *("--dataset_code", str(folder / "shop.csv"), "--experiment_root", str(folder / "experiments")),
        *("--min_item_interactions", "1", "--llm_base_model", "tiny", "--disable_tqdm", "true", "--use_cpu"),
        *("--bf16", "false", "--max_steps", "12", "--save_steps", "4", "--per_device_train_batch_size", "4"),
        *("--logging_steps", "1", "--order_prompts", "12"),
        *more,
    ]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was stopped at step 8, lost its checkpoint of that step, and went on from 4 to its end.

    Tests of several packages share it. One that changes something takes a copy.
    """
    return _trained_in(tmp_path_factory.getbasetemp() / "finished-run")


@cache
def _trained_in(folder: Path) -> Path:
    """Once in a process, though each package that imports the fixture has one of its own."""
    folder.mkdir()
    rng, lines = np.random.default_rng(0), ["user,item,timestamp,title"]
    for user in range(40):
        start, stride = int(rng.integers(60)), 1 + user % 3
        for time in range(5 + user % 5):
            item = (start + time * stride) % 60
            lines.append(f"u{user},i{item},{time},Film <{item}> & more")
    # Too little to be trained on.
    lines += [f"few,i{item},{item},Film <{item}> & more" for item in (7, 8)]
    (folder / "shop.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data, *_ = parse(argv(folder))
    train_retriever(data, RetrieverConfig(hidden_size=16, num_epochs=30, dropout=0.1, batch_size=8), QUIET)
    train_ranker(parse(argv(folder, "--max_steps", "8")), QUIET)
    checkpoints = Experiment(folder / "experiments", "shop").checkpoints
    shutil.rmtree(checkpoints / "checkpoint-8")
    train_ranker(parse(argv(folder, "--resume_from_checkpoint", "--learning_rate", "5e-4")), QUIET)
    return folder


@pytest.fixture(scope="session")
def experiment(finished: Path) -> Experiment:
    return Experiment(finished / "experiments", "shop")


@pytest.fixture(scope="module")
def run(experiment: Experiment) -> RunFacts:
    return read_run(RunFolder(experiment.checkpoints), experiment)
