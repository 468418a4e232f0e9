"""The plain LRURec computes what ours does, and figures become rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.harness.report import read_rows, write_rows
from benchmarks.retriever.epoch import (
    Epoch,
    TopK,
    epoch_text,
    loss_difference,
    measure_epoch,
    measure_top_k,
    rows,
    top_k_text,
)
from benchmarks.retriever.plain_lrurec import PlainTrainer, padded
from llamarec.data.prepared import PreparedData
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from tests.samples import make_data

CONFIG = RetrieverConfig(
    hidden_size=16, batch_size=8, max_length=10, dropout=0.0, products="float32", title_words=False
)
EPOCH = Epoch(
    plain=90.0,
    float32=15.0,
    ours=10.0,
    product_type="bfloat16",
    num_steps=175,
    num_plain_steps=20,
    labelled=0.12,
    loss_difference=1e-7,
    products_difference=1e-4,
)
FOUND = [TopK("beauty", 10, 99, 2.0, 30_000_000), TopK("yelp2020", 20, 49, 70.0, 2_500_000_000)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return make_data()


def test_windows_are_padded_on_the_left() -> None:
    inputs, labels = padded([np.array([5, 6, 7], dtype=np.int32), np.array([8, 9], dtype=np.int32)], 3)
    assert inputs.tolist() == [[0, 5, 6], [0, 0, 8]]
    assert labels.tolist() == [[0, 6, 7], [0, 0, 9]]


# Sequences have up to 12 items for training: with 10 places some are cut, with 20 all are padded.
@pytest.mark.parametrize("max_length", [10, 20])
def test_losses_and_gradients_of_the_same_weights_are_equal(
    data: PreparedData, tmp_path: Path, max_length: int
) -> None:
    config = replace(CONFIG, max_length=max_length)
    ours = RetrieverTrainer(data, config, tmp_path, Console(quiet=True))
    plain = PlainTrainer(data.num_items, config, ours.model.state_dict())
    chosen = np.arange(8)
    assert loss_difference(ours, plain, chosen) < 1e-6
    ours.loss(chosen).backward()  # type: ignore[no-untyped-call]
    plain.loss([ours.windows[index] for index in chosen]).backward()  # type: ignore[no-untyped-call]
    gradients = dict(plain.model.named_parameters())
    for name, parameter in ours.model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-7, msg=name)


def test_everything_is_measured_on_small_data(data: PreparedData) -> None:
    epoch = measure_epoch(data, CONFIG, num_plain_steps=2)
    assert (epoch.num_steps, epoch.num_plain_steps) == (4, 2)
    assert min(epoch.plain, epoch.float32, epoch.ours) > 0
    assert epoch.loss_difference < 1e-6
    found = measure_top_k(data, replace(CONFIG, top_k=5))
    assert (found.num_users, found.num_items, found.score_bytes) == (30, 80, 4 * 30 * 81)


def test_rows_have_goals_and_say_whether_they_are_met(tmp_path: Path) -> None:
    made = {row.name: row for row in rows(EPOCH, FOUND)}
    assert (made["retriever_epoch_ratio"].value, made["retriever_epoch_ratio"].met) == (9.0, True)
    assert made["retriever_epoch_ratio_float32"].met is None
    assert made["retriever_top20_beauty_seconds"].met
    assert not made["retriever_top20_yelp_seconds"].met
    assert (made["retriever_top20_yelp_extra_gb"].value, made["retriever_top20_yelp_extra_gb"].met) == (2.5, False)
    write_rows(tmp_path / "rows.json", list(made.values()))
    assert read_rows(tmp_path / "rows.json") == list(made.values())
    assert "| ours, bfloat16 (as it is here) | 175 | 10.0 | 9.0 |" in epoch_text(EPOCH)
    assert "| yelp2020 | 20 x 49 | 70.0 | 2500 | 0 |" in top_k_text(FOUND)
