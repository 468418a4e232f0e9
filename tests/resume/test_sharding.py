"""FSDP2: one checkpoint for every number of processes and every sharding; refused where it would be ignored or fail."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import TrainingArguments

from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.storage.verification import verify
from llamarec.checkpoints.trainer.guards.sharding import check_sharding_flags
from llamarec.errors import ConfigError
from llamarec.ranker.options.resume_defaults import kept_values
from tests.resume.processes import run_in_processes
from tests.resume.runs import epoch_orders, quiet_trainer
from tests.resume.shards import BASE, shard_all
from tests.resume.training import make_model

SMALL: dict[str, Any] = {"num_samples": 25, "noisy": False, "save_steps": 50}


def _options(num_processes: int, **changes: Any) -> dict[str, Any]:
    """Steps of 4 samples, whatever the number of processes."""
    micro = {1: (2, 2), 2: (2, 1), 4: (1, 1)}[num_processes]
    sizes = {"per_device_train_batch_size": micro[0], "gradient_accumulation_steps": micro[1]}
    return {**SMALL, **sizes, **changes}


def _close(found: dict[str, Any], whole: dict[str, Any]) -> None:
    assert (found["kind"], found["text"]) == ("", "")
    assert found["step"] == whole["step"]
    assert found["rates"] == whole["rates"]
    np.testing.assert_allclose(found["weights"], whole["weights"], rtol=2e-3, atol=2e-5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process, uninterrupted: with LoRA, and a whole model."""
    folder = tmp_path_factory.mktemp("whole")
    rows: dict[str, Any] = {
        "lora": ((folder / "lora", None, None, _options(1)), {}),
        "model": ((folder / "model", None, None, _options(1)), {"whole_model": True}),
    }
    found: list[dict[str, Any]] = run_in_processes(1, shard_all, rows)
    return found[0]


@pytest.mark.slow
def test_shards_train_as_one_process_does(tmp_path: Path, whole: dict[str, Any]) -> None:
    """25 samples in steps of 4: one of the two processes has no sample in the last step, and passes all the same.

    Out of memory, an exception and a signal come to one process, in the middle of a layer, while the other waits there.
    """
    fsdp = _options(2, fsdp=True)
    evaluated = {"eval_strategy": "steps", "eval_steps": 4, "save_steps": 4, "per_device_eval_batch_size": 3}
    best = {**fsdp, **evaluated, "load_best_model_at_end": True}
    rows: dict[str, Any] = {
        "lora": ((tmp_path / "lora", None, None, fsdp), {}),
        "forward": ((tmp_path / "forward", None, None, fsdp), {"fits": 1}),
        "backward": ((tmp_path / "backward", None, None, fsdp), {"fits": 1, "where": "backward"}),
        "signal": ((tmp_path / "signal", None, 5, fsdp), {}),
        "signal, resumed": ((tmp_path / "signal", True, None, fsdp), {}),
        "failure": ((tmp_path / "failure", None, None, fsdp), {"fail_at": 5}),
        "failure, resumed": ((tmp_path / "failure", True, None, fsdp), {}),
        "best": ((tmp_path / "best", None, None, best), {}),
        "model": ((tmp_path / "model", None, 5, fsdp), {"whole_model": True}),
        "model, resumed": ((tmp_path / "model", True, None, fsdp), {"whole_model": True}),
        "adafactor": ((tmp_path / "adafactor", None, None, {**fsdp, "optim": "adafactor"}), {}),
    }
    first, last = run_in_processes(2, shard_all, rows)
    for name in ("lora", "forward", "backward", "signal, resumed", "failure, resumed", "best"):
        _close(first[name], whole["lora"])
        assert last[name]["weights"] == first[name]["weights"], name
        # Each process holds half of every weight.
        assert first[name]["shares"] == last[name]["shares"] == [0.5]
    for name in ("forward", "backward"):
        assert first[name]["micro_batch"] == last[name]["micro_batch"] == 1
    assert first["signal"]["code"] == last["signal"]["code"] == 75
    assert last["failure"]["text"] == "only here"
    assert "ValueError: only here" in first["failure"]["text"]
    for name in ("lora", "forward", "signal", "failure", "best", "model"):
        assert verify(tmp_path / name / "checkpoint-14").health == "good", name
    np.testing.assert_allclose(first["lora"]["losses"], whole["lora"]["losses"], rtol=1e-4)
    assert sorted(first["lora"]["seen"] + last["lora"]["seen"]) == sorted(whole["lora"]["seen"])
    assert len(first["best"]["eval"]) == 4
    assert all(map(math.isfinite, first["best"]["eval"]))
    _close(first["model, resumed"], whole["model"])
    assert first["model, resumed"]["shares"] == [0.5]
    assert "adafactor is not exact on shards" in first["adafactor"]["text"]


@pytest.mark.slow
def test_every_number_of_processes_and_every_sharding_resumes_every_other(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    """One process, two shards, two copies, four shards, one process: in mid-epoch, and each sample once in an epoch."""
    run, seen = tmp_path / "run", list[int]()
    course: list[tuple[int, int | None, dict[str, Any]]] = [
        (1, 2, {}),
        (2, 5, {"fsdp": "full_shard"}),
        (2, 8, {}),
        (4, 11, {"fsdp": True}),
        (1, None, {}),
    ]
    sizes = {}
    for number, (num_processes, stop, changes) in enumerate(course):
        args = (run, True if number else None, stop, _options(num_processes, **changes))
        found = run_in_processes(num_processes, shard_all, {"": (args, {})})
        for one in (each[""] for each in found):
            seen += one["seen"]
            assert one["code"] == (75 if stop else 0), one
            assert one["shares"] == ([1 / num_processes] if changes else [1.0])
        if stop:
            folder = run / f"checkpoint-{stop}"
            assert verify(folder).health == "good"
            sizes[stop] = sum(path.stat().st_size for path in folder.iterdir() if "rng" not in path.name)
            moments = load_pickled(folder / "optimizer.pt")["state"]
            assert {tuple(one["exp_avg"].shape) for one in moments.values()} == {(4, 16), (16, 4)}
        last = found[0][""]
    assert max(sizes.values()) < 1.2 * min(sizes.values())
    assert sorted(seen) == sorted(epoch_orders(quiet_trainer(tmp_path / "order"), 2, 25))
    _close(last, whole["lora"])


@pytest.mark.slow
def test_four_bits_are_sharded_where_floats_store_them(tmp_path: Path) -> None:
    """One process, whose bytes are whole numbers, resumes two with shards, and they it; others are refused."""
    make_model(dropout=0.0).unload().save_pretrained(tmp_path / BASE)
    rows: dict[str, Any] = {
        "whole": ((tmp_path / "whole", None, None, _options(1)), {"storage": "uint8"}),
        "begun": ((tmp_path / "begun", None, 5, _options(1)), {"storage": "uint8"}),
    }
    whole = run_in_processes(1, shard_all, rows)[0]["whole"]
    fsdp = _options(2, fsdp=True)
    rows = {
        "shards": ((tmp_path / "shards", None, 5, fsdp), {"storage": "float32"}),
        "goes on": ((tmp_path / "begun", True, None, fsdp), {"storage": "float32"}),
        "bytes": ((tmp_path / "bytes", None, None, fsdp), {"storage": "uint8"}),
    }
    first, last = run_in_processes(2, shard_all, rows)
    _close(first["goes on"], whole)
    assert first["goes on"]["shares"] == last["goes on"]["shares"] == [0.5]
    assert "bnb_4bit_quant_storage=torch.float32" in first["bytes"]["text"]

    args = (tmp_path / "shards", True, None, _options(1))
    _close(run_in_processes(1, shard_all, {"": (args, {"storage": "uint8"})})[0][""], whole)


# ---- Refused ----


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers leaves variables behind when it reads the flag."""
    for name in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        monkeypatch.setenv(name, "false")


def test_the_flag_is_refused_in_one_process(tmp_path: Path, clean_environment: None) -> None:
    with pytest.raises(ConfigError) as error:
        quiet_trainer(tmp_path, fsdp="full_shard")
    assert "--fsdp" in error.value.problem
    assert "torchrun" in str(error.value)


def test_the_launcher_is_refused_in_one_process(
    tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="ACCELERATE_USE_FSDP"):
        quiet_trainer(tmp_path)


@pytest.mark.parametrize("flag", ["full_shard", None])
@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "renames weights"),
        ("FSDP_OFFLOAD_PARAMS", "yes", "cpu_offload keeps shards"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "1", "cpu_ram_efficient_loading leaves processes without a model"),
        ("FSDP_VERSION", "1", "FSDP1 is not supported"),
        ("FSDP_VERSION", "two", "FSDP1 is not supported"),
    ],
)
def test_what_accelerates_variables_ask_for_is_refused_as_the_flag_is(
    name: str, value: str, found: str, flag: str | None, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate reads them behind --fsdp too, but not those that transformers sets with the flag."""
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda args: 2))
    args = TrainingArguments("unused", fsdp=flag, use_cpu=True, report_to="none")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    check_sharding_flags(args)
    monkeypatch.setenv(name, value)
    if flag and name in ("FSDP_VERSION", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        check_sharding_flags(args)
        return
    with pytest.raises(ConfigError, match=found):
        check_sharding_flags(args)


def test_a_resume_does_not_keep_the_flag() -> None:
    """It belongs to a launch: another one may have another number of processes."""
    then = {"fsdp": True, "fsdp_config": '{"version": 2}', "learning_rate": 0.1}
    assert kept_values(then, list(then), [], list(then)) == {"learning_rate": 0.1}
