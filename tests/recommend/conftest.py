"""A finished run, and what recommends from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llamarec.ranker.options.command_line import parse
from llamarec.ranker.trained.serving import LetterRanker
from llamarec.ranker.training.run import train_ranker
from llamarec.recommend.letter_order import LetterOrder
from llamarec.recommend.recommender import Recommender
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.train import train_retriever
from tests.ranker.shop import QUIET, argv_of, shop
from tests.report.conftest import experiment, finished

__all__ = ["experiment", "finished", "ranker_of", "shop"]


@pytest.fixture(scope="session")
def item_run(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a retriever that knows little, and a run of items whose language model knows more."""
    folder = Path(shutil.copytree(shop, tmp_path_factory.mktemp("items") / "shop"))
    shutil.rmtree(folder / "experiments" / "lru")
    learning = ("--max_steps", "60", "--save_steps", "20", "--learning_rate", "5e-3", "--seed", "1")
    parsed = parse(argv_of(folder, "--readout", "items", *learning, "--per_device_train_batch_size", "8"))
    little = RetrieverConfig(hidden_size=16, num_epochs=1, batch_size=8, experts="none")
    train_retriever(parsed.data, little, QUIET)
    train_ranker(parsed, QUIET)
    return folder


@pytest.fixture(scope="session")
def item_recommender(item_run: Path) -> Recommender:
    return Recommender.load(item_run / "experiments" / "llm" / "shop", device="cpu")


def ranker_of(recommender: Recommender) -> LetterRanker:
    """Of a run of letters."""
    assert isinstance(recommender.order, LetterOrder)
    return recommender.order.ranker


@pytest.fixture(scope="session")
def recommender(finished: Path) -> Recommender:
    return Recommender.load(finished / "experiments" / "llm" / "shop", device="cpu")
