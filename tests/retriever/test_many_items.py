"""A large catalogue is scored in blocks that do not grow with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from llamarec.data.prepared import PreparedData
from llamarec.experts.build import ExpertBuilder
from llamarec.experts.expert_sum import ExpertSum
from llamarec.experts.known import known_at, queries_of
from llamarec.experts.prompts import weight_prompts
from llamarec.retriever.assess import assess
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.learned_expert import LearnedExpert
from llamarec.retriever.mining import mine_hard_negatives
from llamarec.retriever.scoring import label_ranks, top_k
from tests.samples import make_data

NUM_ITEMS, NUM_USERS, WIDTH = 150_000, 40, 4
CONFIG = RetrieverConfig(hidden_size=WIDTH, num_blocks=1, max_length=10, init_from_titles=False, num_sampled=64)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the size of the largest tensor that torch makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = found if isinstance(found, tuple | list) else [found]
        self.numbers = max([self.numbers, *(one.numel() for one in made if isinstance(one, torch.Tensor))])
        return found


@dataclass
class Stage:
    data: PreparedData
    trainer: RetrieverTrainer
    learned: LearnedExpert
    order: ExpertSum


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    data = make_data(NUM_USERS, NUM_ITEMS)
    trainer = RetrieverTrainer(data, CONFIG, tmp_path_factory.mktemp("state"), Console(quiet=True))
    learned = LearnedExpert([trainer.trained()], CONFIG.max_length)
    experts = [learned, *ExpertBuilder(data).experts(known_at(data, "test"))]
    order = ExpertSum(experts, {one.name: 1.0 for one in experts}, NUM_ITEMS, excludes_history=True)
    return Stage(data, trainer, learned, order)


def _assessed(stage: Stage) -> object:
    return assess(stage.order, [stage.learned], stage.data, "test", 20)


class Way(NamedTuple):
    """What is done, and how many numbers the largest tensor may have."""

    does: Callable[[Stage], object]
    most: int = 4_000_000


WAYS = {
    "a step": Way(lambda one: one.trainer.step(np.arange(16)), 1_000_000),
    "validation": Way(lambda one: label_ranks(one.trainer.model, one.data, "validation", max_length=10, exclude=True)),
    "top k": Way(lambda one: top_k(one.trainer.model, one.data, "test", 20, max_length=10, exclude=True)),
    "lists of training": Way(
        lambda one: mine_hard_negatives(
            [one.trainer.model], one.data, 20, max_length=10, exclude=True, order=one.order
        ),
        34_000_000,
    ),
    "candidates and ranks": Way(_assessed),
    "weights": Way(lambda one: weight_prompts(one.order.experts, one.data, excludes_history=True)),
    "a recommendation": Way(
        lambda one: one.order.propose(queries_of(one.data, "test", one.data.sequences.users_with_label("test")), 20)
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_tensor_is_as_large_as_users_times_items(stage: Stage, way: str) -> None:
    with Largest() as largest:
        WAYS[way].does(stage)
    assert NUM_ITEMS * WIDTH <= largest.numbers < WAYS[way].most
    # In one block it would be more.
    assert NUM_USERS * NUM_ITEMS > 4_000_000
    assert stage.data.sequences.train_ends.sum() * NUM_ITEMS > 34_000_000


def test_the_training_is_over_sampled_items(stage: Stage) -> None:
    assert CONFIG.samples(NUM_ITEMS)
