"""The command line: the recipe's defaults, and a user's value that always wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamarec.checkpoints.storage.discovery import LATEST
from llamarec.errors import CheckpointError, ConfigError
from llamarec.ranker.options.command_line import eval_steps_for, parse

BEAUTY = ["--dataset_code", "beauty"]


def test_the_recipes_defaults() -> None:
    data, config, args, *_ = parse(BEAUTY)
    assert data.dataset_code == "beauty"
    assert (config.lora_r, config.lora_alpha, config.lora_dropout) == (8, 32, 0.05)
    assert config.target_modules == ["q_proj", "v_proj"]
    assert (args.learning_rate, args.warmup_steps, args.num_train_epochs) == (1e-4, 100, 1)
    assert (args.save_steps, args.save_total_limit, args.eval_steps) == (500, 3, 100)
    assert (args.load_best_model_at_end, args.metric_for_best_model) == (True, "overall_ndcg@10")
    assert config.early_stopping_patience == 20
    assert args.activation_checkpointing
    assert Path(str(args.output_dir)) == Path("experiments/llm/beauty/checkpoints")


def _batch(*argv: str) -> tuple[int, int]:
    args = parse(argv)[2]
    return args.per_device_train_batch_size, args.gradient_accumulation_steps


def test_the_batch_of_a_step_follows_the_data_set() -> None:
    for bf16, batches in (("true", (1, 12)), ("false", (12, 1))):
        assert _batch(*BEAUTY, "--use_cpu", "--bf16", bf16) == batches
    assert _batch("--dataset_code", "ml-100k", "--use_cpu", "--bf16", "true") == (1, 16)


def test_the_batch_is_the_users_where_one_is_given() -> None:
    assert _batch(*BEAUTY, "--use_cpu", "--per_device_train_batch_size", "2") == (2, 1)
    assert _batch(*BEAUTY, "--use_cpu", "--gradient_accumulation_steps", "3") == (12, 3)


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_taken_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr("llamarec.hardware.has_fast_bfloat16", lambda: fast)
    assert parse([*BEAUTY, "--use_cpu"])[2].bf16 is fast
    assert parse([*BEAUTY, "--use_cpu", "--bf16", "false"])[2].bf16 is False


def test_a_value_given_by_the_user_is_never_overwritten() -> None:
    _, _, args, *_ = parse(
        [
            *BEAUTY,
            *("--learning_rate", "5e-5", "--num_train_epochs", "5", "--per_device_train_batch_size=2"),
            *("--warmup_steps", "7", "--eval_steps", "250", "--output_dir", "elsewhere", "--report_to", "none"),
            *("--metric_for_best_model", "subset_mrr@10", "--bf16", "False", "--gradient_checkpointing", "false"),
        ]
    )
    assert (args.learning_rate, args.num_train_epochs, args.per_device_train_batch_size) == (5e-5, 5, 2)
    assert (args.warmup_steps, args.eval_steps, args.output_dir) == (7, 250, "elsewhere")
    assert (args.metric_for_best_model, args.bf16) == ("subset_mrr@10", False)
    assert not args.activation_checkpointing
    assert args.report_to == []


def test_the_promised_commands_parse() -> None:
    games = [
        *("--dataset_code", "games", "--llm_base_model", "smollm2-135m", "--max_steps", "40", "--save_steps", "20"),
    ]
    _, config, args, *_ = parse(games)
    assert (config.llm_base_model, args.max_steps, args.save_steps, args.eval_steps) == ("smollm2-135m", 40, 20, 20)
    assert not args.activation_checkpointing, "an embedded model is small"
    assert args.warmup_steps == 4, "a warm-up longer than the training would never end"
    checkpoint = "experiments/llm/beauty/checkpoints/checkpoint-1000"
    resumed = [*BEAUTY, "--resume_from_checkpoint", checkpoint, "--learning_rate", "5e-5", "--num_train_epochs", "5"]
    # There is none in a fresh clone; that is found out before anything is loaded.
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        parse(resumed)


def test_resume_without_a_value_means_latest() -> None:
    assert parse([*BEAUTY, "--resume_from_checkpoint"])[2].resume_from_checkpoint == LATEST
    assert parse([*BEAUTY, "--resume_from_checkpoint", "--seed", "1"])[2].resume_from_checkpoint == LATEST


@pytest.mark.parametrize(("save_steps", "eval_steps"), [(20, 20), (100, 100), (250, 50), (500, 100), (127, 127)])
def test_every_save_falls_on_a_validation(save_steps: int, eval_steps: int) -> None:
    assert eval_steps_for(save_steps) == eval_steps
    assert save_steps % eval_steps == 0


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (("--save_steps", "50", "--eval_steps", "100"), "--save_steps 100, or --eval_steps 50, or"),
        (("--save_steps", "250", "--eval_steps", "100"), "--save_steps 300, or --eval_steps 250, or"),
    ],
)
def test_a_save_between_two_validations_is_refused_with_what_fits(flags: tuple[str, ...], hint: str) -> None:
    with pytest.raises(ConfigError, match="round multiple") as refused:
        parse([*BEAUTY, *flags])
    assert hint in str(refused.value)
    for first in hint.split(", or")[:2]:
        parse([*BEAUTY, *flags, *first.split()])


def test_saves_of_the_best_are_found_by_validations_every_few_steps() -> None:
    training = parse([*BEAUTY, "--save_strategy", "best"])[2]
    assert training.save_strategy == "best"
    assert training.eval_strategy == "steps"
    assert training.load_best_model_at_end


def test_validation_follows_the_save_strategy() -> None:
    assert parse([*BEAUTY, "--save_strategy", "epoch"])[2].eval_strategy == "epoch"
    assert not parse([*BEAUTY, "--eval_strategy", "no"])[2].load_best_model_at_end
    assert not parse([*BEAUTY, "--save_strategy", "no"])[2].load_best_model_at_end


def test_an_unknown_flag_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"(?s)--learning_rat\b.*--learning_rate"):
        parse([*BEAUTY, "--learning_rat", "1"])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--save_steps", "many"], "save_steps"),
        (["--quantization", "int3", "--num_candidates", "99"], r"(?s)int3.*99"),
        (["--eval_steps", "30"], "30"),
    ],
)
def test_a_value_that_does_not_fit_is_named(flags: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse([*BEAUTY, *flags])


def test_help_is_grouped_and_short_and_help_all_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    texts = {}
    for flag in ("--help", "--help_all"):
        with pytest.raises(SystemExit) as ended:
            parse([flag])
        assert ended.value.code == 0
        texts[flag] = capsys.readouterr().out
    for group in ("Data:", "Training:", "Checkpoints and resume:", "Hardware and memory:"):
        assert group in texts["--help"]
    assert "--fsdp" not in texts["--help"]
    assert "--fsdp" in texts["--help_all"]
    assert "%(default)" not in texts["--help_all"]
    shown = " ".join(texts["--help"].split())
    for own_default in ("Total number of training epochs to perform (default: 1.0)", "optimizer (default: 0.0001)"):
        assert own_default in shown, "the recipe's defaults are shown, not the Trainer's"


@pytest.mark.parametrize("name", ["overall_recall@5", "foo", "ndcg@10"])
def test_a_metric_that_validation_does_not_have_is_refused_at_once(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)--metric_for_best_model {name}.*next: +--metric_for_best_model \w+_"):
        parse(["--metric_for_best_model", name])
    for known in ("eval_subset_mrr@10", "fused_recall@1", "loss"):
        assert parse(["--metric_for_best_model", known]).training.metric_for_best_model == known


@pytest.mark.parametrize("steps", ["0", "-2"])
def test_no_steps_are_not_a_whole_epoch(steps: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)--max_steps {steps}: no number of steps.*1 or more, or -1"):
        parse(["--dataset_code", "beauty", "--max_steps", steps])
    assert parse(["--dataset_code", "beauty", "--max_steps", "-1"]).training.max_steps == -1
