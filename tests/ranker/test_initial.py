"""Beginning with another run's adapter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from llamarec.checkpoints.publish import read_best
from llamarec.errors import CheckpointError, ConfigError
from llamarec.ranker.config import RankerConfig
from llamarec.ranker.initial import read_initial
from tests.ranker.shop import checkpoints_of, newest, run_shop, tensors

_WEIGHTS = "adapter_model.bin"


@pytest.fixture(name="other")
def _other(folder: Path) -> Path:
    """Where a run of the same shop has put its best adapter; the shop is as if there had been none."""
    run_shop(folder)
    return Path(shutil.move(checkpoints_of(folder).parent, folder / "other")) / "checkpoints"


def test_a_run_begins_with_the_weights_of_another(folder: Path, other: Path) -> None:
    # A rate of 0 leaves them as they are.
    run_shop(folder, "--init_adapter", str(other.parent), "--learning_rate", "0", "--max_steps", "4")
    assert tensors(newest(folder) / _WEIGHTS) == tensors(other / _WEIGHTS)


def test_a_resume_goes_on_with_its_own_weights_also_when_the_other_run_is_gone(folder: Path, other: Path) -> None:
    whole = Path(shutil.copytree(folder, folder.with_name("in_one_go")))
    run_shop(whole, "--init_adapter", str(whole / "other"))
    run_shop(folder, "--init_adapter", str(other))
    for step in (8, 12):
        shutil.rmtree(checkpoints_of(folder) / f"checkpoint-{step}")
    shutil.rmtree(other)
    run_shop(folder, "--resume_from_checkpoint", str(checkpoints_of(folder) / "checkpoint-4"))
    assert tensors(newest(folder) / _WEIGHTS) == tensors(newest(whole) / _WEIGHTS)


@pytest.mark.parametrize("what", ["a run", "a checkpoint", "the best adapter"])
def test_every_place_of_an_adapter_will_do(other: Path, what: str) -> None:
    best = read_best(other)
    assert best is not None
    place = {"a run": other.parent, "a checkpoint": other / f"checkpoint-{best.step}", "the best adapter": other}[what]
    initial = read_initial(RankerConfig(init_adapter=str(place)))
    assert initial.base_model == "tiny"
    assert {name: tensor.shape for name, tensor in initial.weights.items()} == {
        name: tensor.shape for name, tensor in torch.load(other / _WEIGHTS, weights_only=True).items()
    }


def test_other_lora_options_are_said_as_flags(other: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_initial(RankerConfig(init_adapter=str(other), lora_r=4, lora_target_modules="q_proj"))
    assert caught.value.expected == "--lora_r 8 --lora_target_modules q_proj,v_proj"
    assert caught.value.found == "--lora_r 4 --lora_target_modules q_proj"
    assert caught.value.retry_with == ("--lora_r", "8", "--lora_target_modules", "q_proj,v_proj")


def test_what_is_no_adapter_is_refused_before_a_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--init_adapter .*nowhere: there is no adapter\n.*\n.*no such folder"):
        run_shop(folder, "--init_adapter", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="a folder without it"):
        read_initial(RankerConfig(init_adapter=str(tmp_path)))
    assert not checkpoints_of(folder).exists()


def test_damaged_weights_are_refused(other: Path) -> None:
    path = other / _WEIGHTS
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not as it was saved"):
        read_initial(RankerConfig(init_adapter=str(other)))


def test_weights_of_another_shape_are_refused(folder: Path, other: Path) -> None:
    weights = torch.load(other / _WEIGHTS, weights_only=True)
    (other / "best.json").unlink()
    torch.save({name: tensor[..., :-1].clone() for name, tensor in weights.items()}, other / _WEIGHTS)
    with pytest.raises(CheckpointError, match="have another shape than this model's"):
        run_shop(folder, "--init_adapter", str(other))
