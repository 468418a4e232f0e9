"""What a resume keeps: the first command with the new flags added."""

from __future__ import annotations

from typing import Any

import pytest

from llamarec.ranker.options.resume_defaults import kept_values

THEN: dict[str, Any] = {
    "learning_rate": 2e-4,
    "num_train_epochs": 1.0,
    "max_steps": 40,
    "per_device_train_batch_size": 12,
    "gradient_accumulation_steps": 1,
    "save_steps": 20,
    "eval_steps": 20,
    "warmup_steps": 4,
    "lora_r": 4,
    "bf16": True,
    "use_cpu": False,
    "output_dir": "there",
    "ddp_backend": "gloo",
    "lr_scheduler_kwargs": {"power": 2},
    "of_another_program": 1,
    "hub_token": "<HUB_TOKEN>",
    "activation_checkpointing": True,
    "greater_is_better": True,
}
KNOWN = THEN.keys() - {"of_another_program"}


def _kept(then: str = "", now: str = "") -> dict[str, Any]:
    return kept_values(THEN, then.split(), now.split(), KNOWN)


def test_without_a_flag_everything_of_the_training_stays() -> None:
    kept = _kept()
    assert {name: kept[name] for name in ("learning_rate", "max_steps", "warmup_steps", "lora_r", "eval_steps")} == {
        "learning_rate": 2e-4,
        "max_steps": 40,
        "warmup_steps": 4,
        "lora_r": 4,
        "eval_steps": 20,
    }


@pytest.mark.parametrize("name", ["output_dir", "ddp_backend", "of_another_program", "hub_token"])
def test_places_and_what_this_command_has_no_flag_for_do_not(name: str) -> None:
    assert name not in _kept(then=name)


def test_a_value_given_now_is_this_commands() -> None:
    assert "learning_rate" not in _kept(then="learning_rate", now="learning_rate")


@pytest.mark.parametrize(
    ("then", "now", "name", "stays"),
    [
        # What the machine decides is decided anew, unless somebody had decided it.
        ("", "", "bf16", False),
        ("bf16", "", "bf16", True),
        ("", "", "per_device_train_batch_size", False),
        ("per_device_train_batch_size", "", "per_device_train_batch_size", True),
        ("per_device_train_batch_size", "", "gradient_accumulation_steps", True),
        # Micro-batch and accumulation belong together.
        ("", "per_device_train_batch_size", "gradient_accumulation_steps", False),
        ("gradient_accumulation_steps", "per_device_train_batch_size", "gradient_accumulation_steps", True),
        # Epochs given now must count, whatever --max_steps said then.
        ("max_steps", "num_train_epochs", "max_steps", False),
        # Two names of one setting; what is better follows from the metric.
        ("", "gradient_checkpointing", "activation_checkpointing", False),
        ("greater_is_better", "metric_for_best_model", "greater_is_better", False),
        # Nested values are kept where they were typed.
        ("", "", "lr_scheduler_kwargs", False),
        ("lr_scheduler_kwargs", "", "lr_scheduler_kwargs", True),
        # Validation follows another rhythm of saving, unless it had its own.
        ("", "save_steps", "eval_steps", False),
        ("eval_steps", "save_steps", "eval_steps", True),
    ],
)
def test_what_follows_from_another_value(then: str, now: str, name: str, stays: bool) -> None:
    assert (name in _kept(then, now)) is stays


def test_a_checkpoint_from_before_a_flag_keeps_what_was_done_then() -> None:
    known = [*KNOWN, "hard_negatives", "hard_negatives_at", "candidate_order"]
    kept = kept_values(THEN, [], ["candidate_order"], known)
    assert kept["hard_negatives"] == 0.0
    assert kept["hard_negatives_at"] == "all"
    assert "candidate_order" not in kept
    assert kept_values({**THEN, "hard_negatives": 0.25}, [], [], known)["hard_negatives"] == 0.25
