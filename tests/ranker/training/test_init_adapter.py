"""Beginning with another run's adapter."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from llamarec.checkpoints.storage.best_model import read_best
from llamarec.errors import CheckpointError, ConfigError
from llamarec.ranker.options.config import LINEAR_LAYERS, RankerConfig
from llamarec.ranker.prompts.template import PromptTemplate, load_template
from llamarec.ranker.training.init_adapter import read_initial
from llamarec.ranker.training.lora_options import _FREE, LoraOptions, _strange
from tests.ranker.shop import checkpoints_of, newest, run_shop, tensors

_WEIGHTS = "adapter_model.bin"
_NOWHERE = Path("no experiments")


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
    # What it began with stays on the record, whatever is said now.
    resumed = ("--resume_from_checkpoint", str(checkpoints_of(folder) / "checkpoint-4"), "--init_adapter", "nowhere")
    run_shop(folder, *resumed)
    metrics = json.loads((checkpoints_of(folder).parent / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["config"]["init_adapter"] == str(other)
    assert tensors(newest(folder) / _WEIGHTS) == tensors(newest(whole) / _WEIGHTS)


@pytest.mark.parametrize("what", ["a run", "a checkpoint", "the best adapter", "a run without a best one"])
def test_every_place_of_an_adapter_will_do(other: Path, what: str) -> None:
    best = read_best(other)
    assert best is not None
    if what == "a run without a best one":
        (other / "best.json").unlink()
    # Not the best one, so that the two can be told apart.
    last = 12 if best.step != 12 else 8
    place = {"a checkpoint": other / f"checkpoint-{last}", "the best adapter": other}.get(what, other.parent)
    wanted = other / f"checkpoint-{last}" if what == "a checkpoint" else other
    wanted = other / "checkpoint-12" if what == "a run without a best one" else wanted
    initial = read_initial(RankerConfig(init_adapter=str(place)), _NOWHERE)
    assert initial.base_model == "tiny"
    where, lora = initial.describe("/somewhere/tiny", RankerConfig(), PromptTemplate())
    assert where == f"starts from {wanted}, trained on tiny"
    assert lora == "its LoRA: --lora_r 8 --lora_alpha 32 --lora_target_modules q_proj,v_proj"
    where, _ = initial.describe("someone/small", RankerConfig(), load_template("letter_last"))
    assert where.endswith("(WARNING: this run trains small, the prompt differs)")
    stored = torch.load(wanted / _WEIGHTS, weights_only=True)
    assert initial.weights.keys() == stored.keys()
    assert all(torch.equal(initial.weights[name], stored[name]) for name in stored)


def test_typed_lora_options_that_differ_are_said_as_flags(other: Path) -> None:
    config = RankerConfig(init_adapter=str(other), lora_r=4, lora_alpha=16, lora_target_modules="q_proj")
    with pytest.raises(ConfigError) as caught:
        read_initial(config, _NOWHERE, given={"lora_r", "lora_target_modules", "init_adapter"})
    assert caught.value.expected is not None
    assert caught.value.expected.startswith("--lora_r 8 --lora_target_modules q_proj,v_proj; without these flags")
    assert caught.value.found == "--lora_r 4 --lora_target_modules q_proj"
    assert caught.value.retry_with == ("--lora_r", "8", "--lora_target_modules", "q_proj,v_proj")
    # What was not typed is the adapter's.
    taken = read_initial(config, _NOWHERE).lora
    assert taken == LoraOptions(8, 32, "q_proj,v_proj")
    assert taken.put_into(config) == RankerConfig(init_adapter=str(other))


def test_the_same_layers_in_another_order_are_the_same(other: Path) -> None:
    config = RankerConfig(init_adapter=str(other), lora_target_modules="v_proj, q_proj")
    assert read_initial(config, _NOWHERE, given={"lora_target_modules"}).lora.lora_target_modules == "q_proj,v_proj"


def test_all_seven_layers_are_named_as_they_are_typed() -> None:
    seven = LoraConfig(r=2, lora_alpha=4, target_modules=list(reversed(LINEAR_LAYERS)))
    assert LoraOptions.of_adapter(seven) == LoraOptions(2, 4, "all-linear")
    assert LoraOptions.of_run(RankerConfig(lora_target_modules="all-linear")).lora_target_modules == "all-linear"


# Every field of PEFT's that is not known to be harmless, also those of a later PEFT.
@pytest.mark.parametrize("name", sorted({one.name for one in fields(LoraConfig)} - _FREE))
def test_no_field_changes_what_the_weights_mean_unseen(name: str) -> None:
    config = LoraConfig(target_modules=["q_proj"])
    assert _strange(config) == []
    setattr(config, name, "something else")
    assert _strange(config) == [name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("lora_alpha", 12.5),
        ("lora_alpha", None),
        ("r", 0),
        ("target_modules", ".*_proj"),
        ("target_modules", None),
    ],
)
def test_values_that_the_ranker_never_has(name: str, value: object) -> None:
    config = LoraConfig(target_modules=["q_proj"])
    setattr(config, name, value)
    assert _strange(config) == [name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_rslora": True}, "found:    use_rslora=True"),
        ({"modules_to_save": ["lm_head"]}, r"found:    modules_to_save=\['lm_head'\]"),
        ({"target_modules": ".*_proj"}, r"found:    target_modules='\.\*_proj'"),
        ({"bias": "lora_only"}, "found:    bias='lora_only'"),
        ({"peft_type": "IA3"}, "is no LoRA adapter\n  found:    IA3"),
    ],
)
def test_what_the_same_weights_would_mean_something_else_in_is_refused(
    other: Path, changes: dict[str, Any], said: str
) -> None:
    checkpoint = other / "checkpoint-12"
    (checkpoint / "manifest.json").unlink()
    path = checkpoint / "adapter_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    if changes.get("peft_type"):
        content = {"base_model_name_or_path": "tiny"}
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        read_initial(RankerConfig(init_adapter=str(checkpoint)), _NOWHERE)


def test_what_is_no_adapter_is_refused_before_a_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--init_adapter .*nowhere: there is no adapter .*\n.*\n.*no such folder"):
        run_shop(folder, "--init_adapter", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="a folder without an adapter"):
        read_initial(RankerConfig(init_adapter=str(tmp_path)), _NOWHERE)
    assert not checkpoints_of(folder).exists()


def test_a_run_of_the_same_root_is_called_by_its_code(folder: Path) -> None:
    run_shop(folder)
    root = folder / "experiments"
    assert read_initial(RankerConfig(init_adapter="shop"), root).folder == checkpoints_of(folder)
    with pytest.raises(ConfigError, match=r"found:    no such folder; under .*experiments: shop$"):
        read_initial(RankerConfig(init_adapter="shp"), root)


def test_what_lies_beside_a_mistyped_checkpoint_is_said(other: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such folder; beside it checkpoint-4, checkpoint-8, checkpoint-12$"):
        read_initial(RankerConfig(init_adapter=str(other / "checkpoint-99")), _NOWHERE)


def test_damaged_weights_are_refused(other: Path) -> None:
    checkpoint = other / "checkpoint-12"
    path = checkpoint / _WEIGHTS
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_initial(RankerConfig(init_adapter=str(checkpoint)), _NOWHERE)


def test_of_a_damaged_best_adapter_its_checkpoint_is_taken(other: Path) -> None:
    best = read_best(other)
    assert best is not None
    (other / _WEIGHTS).write_bytes(b"nothing")
    initial = read_initial(RankerConfig(init_adapter=str(other)), _NOWHERE)
    assert initial.folder == other / f"checkpoint-{best.step}"


def test_weights_of_another_shape_are_refused(folder: Path, other: Path) -> None:
    checkpoint = other / "checkpoint-12"
    (checkpoint / "manifest.json").unlink()
    weights = torch.load(checkpoint / _WEIGHTS, weights_only=True)
    torch.save({name: tensor[..., :-1].clone() for name, tensor in weights.items()}, checkpoint / _WEIGHTS)
    with pytest.raises(
        CheckpointError, match=r"(?s)another shape than this model's.*trained on \(tiny\).*--llm_base_model"
    ):
        run_shop(folder, "--init_adapter", str(checkpoint))
