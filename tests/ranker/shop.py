"""A small shop with a trained retriever, and runs of the ranker on it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from llamarec.checkpoints.storage.discovery import order_of_saves
from llamarec.checkpoints.storage.file_set import FileSet
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.publish import Staging
from llamarec.evaluation.comparison import Comparison
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.training.run import train_ranker
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.train import train_retriever

QUIET = Console(quiet=True)


NUM_USERS, NUM_ITEMS = 40, 60
SHOP_RETRIEVER = RetrieverConfig(hidden_size=16, num_epochs=30, dropout=0.1, batch_size=8, learning_rate=3e-3)


def _write_table(path: Path) -> None:
    """Users who walk round a circle of items with a stride of their own: easy for a retriever, with 60 items."""
    rng = np.random.default_rng(0)
    lines = ["user,item,timestamp,title"]
    for user in range(NUM_USERS):
        start, stride = int(rng.integers(NUM_ITEMS)), 1 + user % 3
        items = [(start + step * stride) % NUM_ITEMS for step in range(9)]
        lines += [f"u{user},i{item},{time},Film {item} of many" for time, item in enumerate(items)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a trained retriever."""
    folder = tmp_path_factory.mktemp("shop")
    _write_table(folder / "shop.csv")
    data, *_ = parse(argv_of(folder))
    train_retriever(data, SHOP_RETRIEVER, QUIET)
    return folder


@pytest.fixture
def folder(shop: Path, tmp_path: Path) -> Path:
    """A copy of it for each test."""
    return Path(shutil.copytree(shop, tmp_path / "shop"))


def argv_of(folder: Path, *more: str) -> list[str]:
    return [
        *("--dataset_code", str(folder / "shop.csv"), "--experiment_root", str(folder / "experiments")),
        *("--min_item_interactions", "1", "--llm_base_model", "tiny", "--report_to", "none", "--disable_tqdm", "true"),
        *(
            "--max_steps",
            "12",
            "--save_steps",
            "4",
            "--per_device_train_batch_size",
            "4",
            "--use_cpu",
            "--bf16",
            "false",
        ),
        *("--dataloader_pin_memory", "false", "--lora_dropout", "0.1", "--learning_rate", "1e-3"),
        *more,
    ]


def run_shop(folder: Path, *more: str, console: Console = QUIET) -> Comparison:
    return train_ranker(parse(argv_of(folder, *more)), console).outcome.comparison


def checkpoints_of(folder: Path) -> Path:
    return folder / "experiments" / "llm" / "shop" / "checkpoints"


def newest(folder: Path) -> Path:
    return order_of_saves(RunFolder(checkpoints_of(folder)))[0]


def tensors(path: Path) -> dict[str, str]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in content.items()}


def replace_in_retriever(folder: Path, name: str, content: bytes) -> None:
    """Publishes the retriever again with another file in it, as another training would."""
    files = FileSet(folder / "experiments" / "lru" / "shop")
    contents = {one: files.read(one) for one in files.entries() or {}} | {name: content}

    def fill(staging: Staging) -> None:
        for one, there in contents.items():
            staging.write(one, there)

    files.publish(fill, {})
