"""Reading without executing; hostile files are in test_hostile.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llamarec.checkpoints.resume.safe_load import load_json, load_pickled, load_weights
from llamarec.checkpoints.trainer.samples.rng import capture
from llamarec.checkpoints.trainer.state.snapshot import copied, num_bytes_of, pickled
from llamarec.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(1, dtype=torch.bfloat16)}


def _same(found: dict[str, torch.Tensor] | None) -> bool:
    assert found is not None
    return found.keys() == TENSORS.keys() and all(found[name].equal(TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin"])
def test_weights_of_torch(name: str, tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save(TENSORS, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert _same(load_weights(tmp_path))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "model.safetensors"])
def test_weights_of_safetensors(name: str, tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / name)
    assert _same(load_weights(tmp_path))


def test_sharded_weights_have_another_form(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    assert load_weights(tmp_path) is None


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"abc", b"PK\x03\x04" + b"\0" * 100, b"\xff" * 64])
def test_damaged_weights_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_weights(tmp_path)


def test_what_is_not_there(tmp_path: Path) -> None:
    for load in (load_pickled, load_json):
        with pytest.raises(CheckpointError, match=r"x\.pt is missing"):
            load(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_half_a_json(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.json cannot be read"):
        load_json(tmp_path / "x.json")


def test_a_json_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(CheckpointError, match="a JSON object"):
        load_json(tmp_path / "x.json")


def test_random_states(tmp_path: Path) -> None:
    states = capture()
    (tmp_path / "rng_state.pth").write_bytes(pickled(states))
    found = load_pickled(tmp_path / "rng_state.pth")
    assert found["python"] == states["python"]
    assert found["cpu"].equal(states["cpu"])
    assert found["numpy"][1] == states["numpy"][1].tolist()


def test_a_snapshot_is_a_copy() -> None:
    live: Any = {
        "state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(1.0)}},
        "groups": [{"lr": 0.1, "betas": (1, 2)}],
    }
    taken = copied(live)
    live["state"][0]["exp_avg"].zero_()
    live["groups"][0]["lr"] = 5
    assert taken["state"][0]["exp_avg"].equal(torch.ones(3))
    assert taken["groups"] == [{"lr": 0.1, "betas": (1, 2)}]
    assert num_bytes_of(taken) == 16
