"""Defaults of each readout, and flags that belong to the other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamarec.errors import ConfigError
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.options.readouts import _ONLY_LETTERS

VALUES = {
    "prompt_template": "letter_last",
    "num_candidates": "10",
    "hard_negatives": "0.5",
    "hard_negatives_at": "all",
    "candidate_order": "retriever",
    "test_shuffles": "2",
    "order_prompts": "10",
    "max_train_prompts": "100",
    "latest_prompts": "true",
    "title_similarity": "false",
}


def argv(tmp_path: Path, *more: str) -> list[str]:
    return ["--dataset_code", "beauty", "--experiment_root", str(tmp_path), "--use_cpu", "--report_to", "none", *more]


def test_letters_are_the_default_and_keep_theirs(tmp_path: Path) -> None:
    parsed = parse(argv(tmp_path))
    assert parsed.ranker == RankerConfig()
    assert parsed.training.learning_rate == 1e-4
    assert parsed.training.metric_for_best_model == "overall_ndcg@10"


def test_items_have_defaults_of_their_own_and_a_flag_wins(tmp_path: Path) -> None:
    parsed = parse(argv(tmp_path, "--readout", "items", "--lora_r", "4"))
    assert parsed.ranker.lora_r == 4
    assert parsed.ranker.lora_target_modules == "all-linear"
    assert parsed.ranker.lora_dropout == 0
    assert parsed.training.learning_rate == 5e-4
    assert (parsed.training.metric_for_best_model, parsed.training.greater_is_better) == ("loss", False)
    assert not parsed.training.bf16
    assert (parsed.training.per_device_train_batch_size, parsed.training.per_device_eval_batch_size) == (16, 128)


@pytest.mark.parametrize("name", sorted(_ONLY_LETTERS))
def test_a_flag_of_letters_is_refused_with_items(tmp_path: Path, name: str) -> None:
    words = [f"--{name}", VALUES[name]]
    if name == "latest_prompts":
        words += ["--max_train_prompts", "100"]
    with pytest.raises(ConfigError, match=rf"--{name}: .*\n(.*\n)*.*without .*--{name}"):
        parse(argv(tmp_path, "--readout", "items", *words))


def test_every_option_of_prompts_is_decided(tmp_path: Path) -> None:
    # An option that is new is put on one side or the other.
    shared = {
        *("llm_base_model", "quantization", "readout", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
        "init_adapter",
        *("max_history", "max_title_tokens", "max_prompt_tokens", "max_eval_users", "max_fusion_users"),
        *("max_test_users", "early_stopping_patience", "train_retriever"),
    }
    assert shared | set(_ONLY_LETTERS) == set(RankerConfig.__dataclass_fields__)


def test_metrics_that_a_readout_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fused_ndcg@10: validation has no such metric(.|\n)*overall_ndcg@10"):
        parse(argv(tmp_path, "--readout", "items", "--metric_for_best_model", "fused_ndcg@10"))
    parse(argv(tmp_path, "--readout", "items", "--metric_for_best_model", "overall_recall@10"))


def test_an_unknown_readout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--readout 'item': one of letters, items"):
        parse(argv(tmp_path, "--readout", "item"))
