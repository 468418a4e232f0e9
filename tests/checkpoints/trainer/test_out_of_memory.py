"""Splitting a micro-batch, undoing an optimizer's step; what happens in a training is in tests/resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BatchEncoding

from llamarec.checkpoints.trainer.out_of_memory import (
    MemoryUse,
    Rollback,
    bytes_freed_by_4_bits,
    halved,
    memory_use,
    split,
)
from llamarec.errors import DoesNotFitError

USE = MemoryUse(40, 0, 100, "x")


@given(num_samples=st.integers(1, 20), size=st.integers(1, 20))
def test_the_pieces_are_the_batch(num_samples: int, size: int) -> None:
    batch = {
        "input_ids": torch.arange(num_samples * 3).reshape(num_samples, 3),
        "names": [f"n{i}" for i in range(num_samples)],
        "nested": {"labels": torch.arange(num_samples)},
        "temperature": 0.5,
        "bias": torch.ones(()),
    }
    pieces = split(batch, num_samples, size)
    assert [count for _, count in pieces] == [len(piece["input_ids"]) for piece, _ in pieces]
    assert max(count for _, count in pieces) <= size
    assert torch.cat([piece["input_ids"] for piece, _ in pieces]).equal(batch["input_ids"])  # type: ignore[arg-type]
    assert [name for piece, _ in pieces for name in piece["names"]] == batch["names"]
    assert [int(label) for piece, _ in pieces for label in piece["nested"]["labels"]] == list(range(num_samples))
    assert all(piece["temperature"] == 0.5 and piece["bias"] is batch["bias"] for piece, _ in pieces)


def test_what_fits_is_not_touched() -> None:
    batch = object()
    assert split(batch, 4, 4) == [(batch, 4)]


def test_other_containers() -> None:
    encoding = BatchEncoding({"input_ids": torch.zeros(4, 2)})
    assert [len(piece["input_ids"]) for piece, _ in split(encoding, 4, 3)] == [3, 1]
    assert [len(piece) for piece, _ in split(torch.zeros(4, 2), 4, 3)] == [3, 1]


@pytest.mark.parametrize("batch", [object(), {"x": 1}, {"x": torch.zeros(3, 4)}, {}])
def test_what_cannot_be_split(batch: Any) -> None:
    with pytest.raises(
        DoesNotFitError, match="a micro-batch of 4 samples does not fit into memory and cannot be split"
    ):
        split(batch, 4, 2)


@given(micro_batch=st.integers(2, 64), accumulation=st.integers(1, 64))
def test_the_advice_keeps_the_step(micro_batch: int, accumulation: int) -> None:
    smaller, said = halved(micro_batch, USE, micro_batch * accumulation)
    assert smaller == micro_batch // 2
    words = said.split()
    size = int(words[words.index("--per_device_train_batch_size") + 1])
    steps = int(words[words.index("--gradient_accumulation_steps") + 1])
    assert size == smaller
    assert 0 <= size * steps - micro_batch * accumulation < size


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adamw, amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def _content(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    state = [value for entry in optimizer.state.values() for value in entry.values() if torch.is_tensor(value)]
    return [tensor.detach().clone() for tensor in (*model.parameters(), *state)]


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_step_is_undone(name: str, steps_before: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(steps_before):
        _step(model, optimizer)
    before = _content(model, optimizer)
    rollback = Rollback(optimizer)
    _step(model, optimizer)
    after = _content(model, optimizer)
    assert rollback.undo()
    found = _content(model, optimizer)
    assert len(found) == len(before)
    assert all(a.equal(b) for a, b in zip(found, before, strict=True))
    # Undone twice is undone; and the step can be done again.
    assert rollback.undo()
    _step(model, optimizer)
    assert all(a.equal(b) for a, b in zip(_content(model, optimizer), after, strict=True))


def test_what_is_too_large_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamarec.checkpoints.trainer.out_of_memory._ROLLBACK_LIMIT_BYTES", 4 * 4 * 3 - 1)
    model = torch.nn.Linear(4, 3, bias=False)
    rollback = Rollback(torch.optim.SGD(model.parameters(), lr=0.1))
    assert not rollback.is_kept
    assert not rollback.undo()


def test_measured_on_this_machine() -> None:
    use = memory_use(torch.device("cpu"))
    assert 0 < use.used < use.total
    assert use.peak == 0


def test_what_4_bits_would_free() -> None:
    model = torch.nn.ModuleDict({"embed": torch.nn.Linear(9, 9), "lm_head": torch.nn.Linear(9, 9)})
    assert bytes_freed_by_4_bits(model) == 0
    model["proj"] = torch.nn.Linear(100, 100).requires_grad_(False)
    # 10,000 weights of 4 bytes, of which 4.127 bits remain; the bias is no matrix.
    assert bytes_freed_by_4_bits(model) == int(10_000 * (4 - 4.127 / 8))
    assert bytes_freed_by_4_bits(object()) == 0
