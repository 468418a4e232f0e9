"""A retriever that diverges: an error, the last good epoch kept, and nothing written that looks like a result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from llamarec.data.prepared import PreparedData
from llamarec.errors import DivergedError
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.mining import mine_hard_negatives
from llamarec.retriever.model import LRURec
from llamarec.retriever.scoring import label_ranks, top_k
from llamarec.retriever.state import load_state
from tests.samples import make_data

CONFIG = RetrieverConfig(
    hidden_size=16, dropout=0.2, batch_size=8, num_epochs=5, patience=50, max_length=10, products="float32"
)
GOOD_EPOCHS = 2


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return make_data()


class Spoiled(RetrieverTrainer):
    """Is spoiled in one step of its third epoch."""

    what = "loss"
    at_last_step = False

    def step(self, chosen: object) -> float:
        num_steps = -(-len(self.windows) // CONFIG.batch_size)
        self._steps = getattr(self, "_steps", 0) + 1
        loss = super().step(chosen)  # type: ignore[arg-type]
        if self._steps == GOOD_EPOCHS * num_steps + (num_steps if self.at_last_step else 1):
            if self.what == "loss":
                return math.nan
            with torch.no_grad():
                self.model.embedding.weight[1:] *= {"weights nan": math.nan, "weights inf": math.inf}.get(
                    self.what, 1e30
                )
        return loss


@pytest.mark.parametrize("at_last_step", [False, True])
@pytest.mark.parametrize("what", ["loss", "weights nan", "weights inf", "scores"])
def test_the_last_good_epoch_is_kept(what: str, at_last_step: bool, data: PreparedData, tmp_path: Path) -> None:
    short = replace(CONFIG, num_epochs=GOOD_EPOCHS)
    good = RetrieverTrainer(data, short, tmp_path / "good", Console(quiet=True))
    good.fit()

    trainer = Spoiled(data, replace(CONFIG, save_seconds=1e9), tmp_path / "bad", Console(quiet=True))
    trainer.what, trainer.at_last_step = what, at_last_step
    with pytest.raises(DivergedError, match=r"(?s)diverged in epoch 3.*--restart --learning_rate 0\.0001") as error:
        trainer.fit()
    assert f"--num_epochs {GOOD_EPOCHS}" in str(error.value)

    kept, wanted = load_state(tmp_path / "bad"), load_state(tmp_path / "good")
    assert kept is not None
    assert wanted is not None
    assert kept.epoch == GOOD_EPOCHS
    assert kept.history == wanted.history
    for name, tensor in wanted.model.items():
        assert torch.equal(kept.model[name], tensor)
    # What the message advises gives the same retriever.
    again = RetrieverTrainer(data, short, tmp_path / "bad", Console(quiet=True))
    again.fit()
    assert all(torch.equal(again.model.state_dict()[name], one) for name, one in good.model.state_dict().items())


def test_a_first_epoch_that_diverges_leaves_nothing(data: PreparedData, tmp_path: Path) -> None:
    trainer = RetrieverTrainer(data, replace(CONFIG, learning_rate=1e30), tmp_path, Console(quiet=True))
    with pytest.raises(DivergedError, match=r"(?s)diverged in epoch 1.*nothing is kept"):
        trainer.fit()
    assert load_state(tmp_path) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("reader", ["ranks", "top k", "lists"])
def test_no_reader_ranks_by_scores_that_are_not_finite(
    reader: str, value: float, data: PreparedData, tmp_path: Path
) -> None:
    model = RetrieverTrainer(data, CONFIG, tmp_path, Console(quiet=True)).model
    with torch.no_grad():
        model.embedding.weight[7, 0] = value
    readers: dict[str, Callable[[LRURec], object]] = {
        "ranks": lambda one: label_ranks(one, data, "test", max_length=10, exclude=True),
        "top k": lambda one: top_k(one, data, "test", 5, max_length=10, exclude=True),
        "lists": lambda one: mine_hard_negatives([one], data, 5, max_length=10, exclude=True),
    }
    with pytest.raises(DivergedError, match="not finite"):
        readers[reader](model)


def test_a_model_that_says_the_same_of_everything_is_not_perfect(data: PreparedData, tmp_path: Path) -> None:
    model = RetrieverTrainer(data, CONFIG, tmp_path, Console(quiet=True)).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    ranks = label_ranks(model, data, "test", max_length=10, exclude=False)
    assert set(ranks.tolist()) == {data.num_items}
