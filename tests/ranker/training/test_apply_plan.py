"""What the plan may choose of a run, and what it must leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llamarec.cli.main import main
from llamarec.data.prepared import PreparedData
from llamarec.planning.device import Device
from llamarec.planning.plan import Plan
from llamarec.ranker.options.command_line import Parsed, parse
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.training_samples import TrainingSamples
from llamarec.ranker.training.apply_plan import origins, plan_run, with_plan
from tests.samples import make_data

LARGE = Device("a GPU", True, 80 * 10**9, 80 * 10**9)
SMALL = replace(LARGE, total=800_000_000)


@pytest.fixture(scope="module")
def train(data: PreparedData, encoder: PromptEncoder) -> TrainingSamples:
    return TrainingSamples(data, encoder, 1)


def _parsed(*more: str) -> Parsed:
    # A folder is a model that is not embedded: by itself 4 bits and checkpointing.
    return parse(["--dataset_code", "beauty", "--llm_base_model", "a/folder", "--use_cpu", "--bf16", "false", *more])


def _plan(parsed: Parsed, folder: Path, train: TrainingSamples, device: Device = LARGE) -> Plan:
    return plan_run(parsed, str(folder), train, validation_prompts=10, test_prompts=20, with_speed=False, device=device)


def test_what_nobody_decided_is_chosen(tiny_folder: Path, train: TrainingSamples) -> None:
    parsed = _parsed()
    plan = _plan(parsed, tiny_folder, train)
    changed = with_plan(parsed, plan)
    assert changed.ranker.quantization == "none", "in words that hold on every machine"
    assert not changed.training.activation_checkpointing
    assert changed.training.per_device_train_batch_size * changed.training.gradient_accumulation_steps == 12
    assert changed.given == parsed.given


def test_the_same_command_gives_the_same_plan(tiny_folder: Path, train: TrainingSamples) -> None:
    first, second = (_plan(_parsed(), tiny_folder, train).as_dict() for _ in range(2))
    assert first == second


def test_flags_stay(tiny_folder: Path, train: TrainingSamples) -> None:
    flags = ["--quantization", "nf4", "--activation_checkpointing", "true", "--per_device_eval_batch_size", "7"]
    parsed = _parsed(*flags, "--per_device_train_batch_size", "5", "--gradient_accumulation_steps", "2")
    for device in (LARGE, SMALL):
        changed = with_plan(parsed, _plan(parsed, tiny_folder, train, device))
        args = changed.training
        assert changed.ranker.quantization == "nf4"
        assert args.activation_checkpointing
        assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (5, 2)
        assert args.per_device_eval_batch_size == 7
    assert set(origins(parsed).values()) == {"yours"}
    assert "quantization" not in origins(_parsed("--quantization", "auto")), "asked for, so chosen"


def test_values_of_a_checkpoint_stay(tiny_folder: Path, train: TrainingSamples) -> None:
    parsed = _parsed()
    kept = parsed._replace(kept=frozenset({"quantization", "activation_checkpointing"}))
    plan = _plan(kept, tiny_folder, train)
    assert plan.choice.quantization == "nf4", "auto of a checkpoint is what it was before there were plans"
    changed = with_plan(kept, plan)
    assert changed.ranker.quantization == "auto"
    assert changed.training.activation_checkpointing
    assert origins(kept) == {"quantization": "kept", "checkpointing": "kept"}


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    titles = make_data().titles[1:]
    rows = [f"u{user},i{(user + step) % len(titles)},{step}" for user in range(30) for step in range(8)]
    items = [f"i{number},{title}" for number, title in enumerate(titles)]
    (tmp_path / "shop.csv").write_text("user,item,timestamp\n" + "\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "items.csv").write_text("item,title\n" + "\n".join(items) + "\n", encoding="utf-8")
    words = ["--dataset_code", str(tmp_path / "shop.csv"), "--items_file", str(tmp_path / "items.csv")]
    words += ["--experiment_root", str(tmp_path / "out"), "--llm_base_model", "tiny", "--use_cpu", "--bf16", "false"]
    words += ["--min_item_interactions", "1", "--max_steps", "30"]
    assert main(["plan", *words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["work"]["steps"] == 30
    assert content["work"]["test_prompts"] is None
    assert content["precision"] == "fp32"
    assert main(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert "30 steps" in said
    assert "prompt by prompt" in said
    assert "activations kept" in said


def test_the_verb_wants_a_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--llm_base_model", "tiny"]) == 2
    assert "which data set?" in capsys.readouterr().err
    assert main(["plan", "--dataset_code", "beauty", "--learning_rat", "1"]) == 2
    assert "--learning_rate" in capsys.readouterr().err
