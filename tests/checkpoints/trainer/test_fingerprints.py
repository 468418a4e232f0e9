"""Fingerprints: the same in every process, another for another model or other data."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from llamarec.checkpoints.trainer.fingerprints import _pickled, base_model_of, fingerprints_of
from tests.resume.training import make_model
from tests.resume.worker_data import Words


def _of(model: Any = None, dataset: Any = None, seed: int = 42) -> dict[str, Any]:
    model = make_model() if model is None else model
    found = fingerprints_of(model, Words() if dataset is None else dataset, seed=seed, by_epoch=False)
    return {"base_model": base_model_of(model), **found}


def _weight_changed(name: str) -> Any:
    model = make_model()
    with torch.no_grad():
        dict(model.named_parameters())[name].add_(0.01)
    return model


def _lora(**changes: Any) -> Any:
    wanted: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **changes}
    return get_peft_model(make_model().unload(), LoraConfig(task_type="CAUSAL_LM", **wanted))


class Tags(set[str]):
    """A set of a class of its own."""


@dataclass(frozen=True)
class Item:
    """A sample with sets and tensors inside."""

    tags: frozenset[str]
    more: dict[str, Tags]
    pairs: set[tuple[str, int]]
    values: torch.Tensor


WITH_SETS: list[Any] = [{"tags": {"red", "green", "blue", f"row {number}"}} for number in range(5)]
WITH_OBJECTS: list[Any] = [
    Item(frozenset(words), {"own": Tags(words)}, {(word, number) for word in words}, torch.arange(3.0) + number)
    for number, words in enumerate([["red", "green", "blue", f"row {number}"] for number in range(5)])
]


def test_the_same_model_and_data() -> None:
    assert _of() == _of()


def test_training_changes_nothing() -> None:
    trained = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"
    assert _of(_weight_changed(trained)) == _of()
    assert _of(make_model().eval()) == _of(make_model().train())


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("base_model", lambda: _weight_changed("base_model.model.model.embed_tokens.weight")),
        ("base_model", lambda: _weight_changed("base_model.model.model.layers.1.mlp.up_proj.weight")),
        ("lora", lambda: _lora(lora_alpha=16)),
        ("lora", lambda: _lora(r=8)),
        ("lora", lambda: _lora(target_modules=["q_proj"])),
        ("lora", lambda: _lora(use_rslora=True)),
    ],
)
def test_another_model(name: str, make: Callable[[], Any]) -> None:
    found, expected = _of(make()), _of()
    assert found[name] != expected[name]
    assert found["data"] == expected["data"]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_is_a_hyperparameter_of_the_step(dropout: float) -> None:
    assert _of(make_model(dropout=dropout)) == _of()


class _Dicts(torch.utils.data.Dataset[Any]):
    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._rows[index]


ROWS: list[Any] = [{"text": f"t{i}", "ids": [i, 2.5, None], "mask": torch.ones(i)} for i in range(8)]


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:7],
        [*ROWS[:7], {**ROWS[7], "text": "x"}],
        [{**ROWS[0], "ids": [0, 2.5, 0]}, *ROWS[1:]],
        [*ROWS[:7], {**ROWS[7], "mask": torch.zeros(7)}],
        [*ROWS[:7], {**ROWS[7], "more": 1}],
    ],
)
def test_other_data(rows: list[Any]) -> None:
    assert _of(dataset=_Dicts(rows))["data"] != _of(dataset=_Dicts(ROWS))["data"]


def test_the_order_of_columns_is_none_of_the_data() -> None:
    turned = [dict(reversed(row.items())) for row in ROWS]
    assert _of(dataset=_Dicts(turned)) == _of(dataset=_Dicts(ROWS))


def test_the_number_of_samples_is_readable() -> None:
    assert _of(dataset=_Dicts(ROWS))["data"].startswith("8 samples, ")
    assert _of(dataset=_Dicts([]))["data"].startswith("0 samples, ")
    assert _of(dataset=_Dicts(ROWS[:1]))["data"].startswith("1 samples, ")


def test_looking_takes_nothing_from_the_random_states() -> None:
    model = torch.nn.Linear(2, 2)
    before = torch.random.get_rng_state()
    _of(model)
    assert torch.random.get_rng_state().equal(before)


def test_the_same_in_another_process_whatever_its_hash_seed() -> None:
    """Sets, as target_modules is one, have another order there."""
    program = (
        "from tests.checkpoints.trainer.test_fingerprints import WITH_OBJECTS, WITH_SETS, _Dicts, _of; "
        "print(_of(), _of(dataset=_Dicts(WITH_SETS)), _of(dataset=_Dicts(WITH_OBJECTS)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONWARNINGS": "ignore", "PYTHONPATH": "."}
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=True).stdout
    expected = [_of(), *(_of(dataset=_Dicts(rows)) for rows in (WITH_SETS, WITH_OBJECTS))]
    assert found.strip().splitlines()[-1] == " ".join(map(str, expected))


def test_what_pickle_writes_alike_everywhere_keeps_its_bytes() -> None:
    for value in (np.arange(3), {1, 2, 3}, Fraction(1, 3), [b"x", {"a": np.float32(1)}]):
        assert _pickled(value) == pickle.dumps(value, protocol=4)


def test_another_value_inside_of_an_object_is_other_data() -> None:
    for change in ({"tags": frozenset({"red"})}, {"values": torch.zeros(3)}, {"pairs": {("red", 1)}}):
        other = [replace(WITH_OBJECTS[0], **change), *WITH_OBJECTS[1:]]
        assert _of(dataset=_Dicts(other)) != _of(dataset=_Dicts(WITH_OBJECTS))


def test_another_set_is_other_data() -> None:
    other = [{**row, "tags": row["tags"] | {"new"}} for row in WITH_SETS]
    assert _of(dataset=_Dicts(other)) != _of(dataset=_Dicts(WITH_SETS))
