"""Whole runs with the tiny model: files, resume, and what is said when something is missing."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from rich.console import Console
from transformers.models.llama.modeling_llama import LlamaMLP

from llamarec.cli.checkpoints import plan
from llamarec.command import typed
from llamarec.errors import ArtifactError, CheckpointError, ConfigError, ModelError
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.options.resume_defaults import kept_values
from llamarec.ranker.trained.retrain import retrain_command
from llamarec.ranker.training.run import train_ranker
from llamarec.retriever.train import train_retriever
from llamarec.vocabulary import Experiment
from tests.ranker.shop import (
    NUM_USERS,
    QUIET,
    SHOP_RETRIEVER,
    argv_of,
    checkpoints_of,
    newest,
    replace_in_retriever,
    run_shop,
    tensors,
)


def plan_of(run: str, *flags: str) -> argparse.Namespace:
    """The arguments of `llamarec checkpoints plan`."""
    return argparse.Namespace(json=False, experiment_root=Path("experiments"), run_name=run, flags=list(flags))


def test_a_run_leaves_what_was_promised(folder: Path) -> None:
    comparison = run_shop(folder)
    checkpoints = checkpoints_of(folder)
    assert sorted(path.name for path in checkpoints.glob("checkpoint-*")) == [
        "checkpoint-12",
        "checkpoint-4",
        "checkpoint-8",
    ]
    for name in ("adapter_model.bin", "adapter_config.json", "optimizer.pt", "scheduler.pt", "trainer_state.json"):
        assert (checkpoints / "checkpoint-8" / name).is_file()
    metrics = json.loads((folder / "experiments" / "llm" / "shop" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["num_users"] == comparison.num_users == NUM_USERS
    assert metrics["num_covered"] == comparison.num_covered > 0
    overall = {row["metric"]: row for row in metrics["overall"]}
    subset = {row["metric"]: row for row in metrics["subset"]}
    assert overall["ndcg@10"]["ranker"] == pytest.approx(metrics["coverage"] * subset["ndcg@10"]["ranker"])
    assert [row["order"] for row in metrics["orders"]["rows"]][:2] == ["retriever's", "reversed"]


def test_two_runs_of_one_process_have_logs_of_their_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    for one in (folder, other):
        train_ranker(parse([*argv_of(one, "--max_steps", "2"), "--report_to", "tensorboard"]), QUIET)
        assert list((one / "experiments" / "llm" / "shop" / "logs").glob("events.*"))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "mine"))
    train_ranker(parse([*argv_of(folder, "--max_steps", "2", "--restart"), "--report_to", "tensorboard"]), QUIET)
    assert list((tmp_path / "mine").glob("events.*"))


def test_a_part_of_the_prompts_is_trained_on(folder: Path) -> None:
    run_shop(folder, "--max_train_prompts", "24", "--max_steps", "-1", "--num_train_epochs", "2")
    state = json.loads((newest(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 12


def test_the_best_adapter_is_loaded_by_plain_peft(folder: Path) -> None:
    run_shop(folder)
    model = AutoPeftModelForCausalLM.from_pretrained(checkpoints_of(folder))
    assert any("lora_B" in name and parameter.abs().sum() > 0 for name, parameter in model.named_parameters())
    state = json.loads((checkpoints_of(folder) / "checkpoint-12" / "trainer_state.json").read_text(encoding="utf-8"))
    best = tensors(checkpoints_of(folder) / "adapter_model.bin")
    assert best == tensors(checkpoints_of(folder) / f"checkpoint-{state['best_global_step']}" / "adapter_model.bin")


def test_the_best_adapter_is_kept_although_its_step_was_not_saved(folder: Path) -> None:
    run_shop(folder, "--eval_steps", "1", "--max_steps", "6", "--save_steps", "6", "--learning_rate", "5e-2")
    state = json.loads((checkpoints_of(folder) / "checkpoint-6" / "trainer_state.json").read_text(encoding="utf-8"))
    best = max((row for row in state["log_history"] if "eval_loss" in row), key=lambda row: row["eval_overall_ndcg@10"])
    assert state["best_metric"] == best["eval_overall_ndcg@10"]
    assert (checkpoints_of(folder) / "adapter_model.bin").is_file()
    assert not (checkpoints_of(folder) / ".best").exists()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_resumed_in_the_middle_ends_in_the_same_bits(folder: Path, workers: str) -> None:
    more = ["--dataloader_num_workers", workers, "--gradient_accumulation_steps", "2"]
    run_shop(folder, *more)
    whole = tensors(checkpoints_of(folder) / "checkpoint-12" / "adapter_model.bin")
    for name in ("checkpoint-8", "checkpoint-12"):
        shutil.rmtree(checkpoints_of(folder) / name)
    run_shop(folder, *more, "--resume_from_checkpoint", str(checkpoints_of(folder) / "checkpoint-4"))
    assert tensors(checkpoints_of(folder) / "checkpoint-12" / "adapter_model.bin") == whole


def test_a_second_epoch_is_resumed_exactly_too(folder: Path) -> None:
    # 40 users with 6 training samples each: 240 prompts, 15 steps of 16 an epoch; step 20 lies in the second.
    more = ["--per_device_train_batch_size", "16", "--max_steps", "24", "--save_steps", "10"]
    run_shop(folder, *more)
    whole = tensors(checkpoints_of(folder) / "checkpoint-24" / "adapter_model.bin")
    shutil.rmtree(checkpoints_of(folder) / "checkpoint-24")
    run_shop(folder, *more, "--resume_from_checkpoint")
    assert tensors(checkpoints_of(folder) / "checkpoint-24" / "adapter_model.bin") == whole


def test_latest_without_a_checkpoint_starts_and_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_shop(folder, "--max_steps", "4", "--resume_from_checkpoint")
    assert "there is no checkpoint in" in capsys.readouterr().out


def test_a_path_that_is_no_checkpoint_lists_the_ones_there_are(folder: Path) -> None:
    run_shop(folder, "--max_steps", "8")
    wanted = str(checkpoints_of(folder) / "checkpoint-1000")
    answer = (
        r"(?s)checkpoint not found: .*checkpoint-4 \(step 4, verified\).*next: +--resume_from_checkpoint .*checkpoint-8"
    )
    with pytest.raises(CheckpointError, match=answer):
        run_shop(folder, "--resume_from_checkpoint", wanted)


def test_a_start_over_an_earlier_run_is_refused(folder: Path) -> None:
    run_shop(folder, "--max_steps", "4")
    with pytest.raises(CheckpointError, match=r"(?s)earlier run.*checkpoint-4.*--resume_from_checkpoint.*--restart"):
        run_shop(folder)
    run_shop(folder, "--max_steps", "4", "--restart")


def test_what_is_refused_leaves_the_run_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_shop(folder, "--max_steps", "4")
    description = folder / "experiments" / "llm" / "shop" / "ranker.json"
    then = description.read_bytes()
    # Another retriever: what recommends has to see that the ranker's was another one.
    shutil.rmtree(folder / "experiments" / "lru")
    data, *_ = parse(argv_of(folder))
    train_retriever(data, replace(SHOP_RETRIEVER, num_epochs=10), QUIET)
    with pytest.raises(CheckpointError, match="belongs to a different run than this command"):
        run_shop(folder, "--max_history", "3", "--resume_from_checkpoint")
    other = tmp_path / "other"
    run_shop(folder, "--max_steps", "4", "--output_dir", str(other))
    with pytest.raises(CheckpointError, match=r"(?s)holds the checkpoints of another run.*--output_dir .*other"):
        run_shop(folder, "--resume_from_checkpoint", str(other / "checkpoint-4"))
    # Without the base model, which may take minutes to load.
    monkeypatch.setattr("llamarec.ranker.training.run.load_tokenizer", None)
    with pytest.raises(CheckpointError, match="holds the checkpoints of an earlier run"):
        run_shop(folder, "--max_history", "3")
    assert description.read_bytes() == then


def test_a_resume_keeps_what_the_first_command_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_shop(folder, "--lora_r", "4", "--weight_decay", "0.02")
    whole = tensors(checkpoints_of(folder) / "checkpoint-12" / "adapter_model.bin")
    for name in ("checkpoint-8", "checkpoint-12"):
        shutil.rmtree(checkpoints_of(folder) / name)
    short = argv_of(folder)[:4]
    capsys.readouterr()
    train_ranker(parse([*short, "--resume_from_checkpoint"]), QUIET)
    said = capsys.readouterr().out
    assert re.search(r"kept: +lora_r +4 \(as in the checkpoint; default 8\)", said)
    assert re.search(r"kept: +max_steps +12 ", said)
    assert tensors(checkpoints_of(folder) / "checkpoint-12" / "adapter_model.bin") == whole


def test_the_promised_resume_takes_every_new_value(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*argv_of(folder)[:10], "--use_cpu", "--bf16", "false", "--save_steps", "4", "--num_train_epochs", "1"]
    argv += ["--per_device_train_batch_size", "12", "--disable_tqdm", "true", "--early_stopping_patience", "0"]
    train_ranker(parse(argv), QUIET)
    capsys.readouterr()
    new = ["--learning_rate", "5e-5", "--num_train_epochs", "2", "--per_device_train_batch_size", "2"]
    checkpoint = checkpoints_of(folder) / "checkpoint-12"
    train_ranker(parse([*argv_of(folder)[:4], "--resume_from_checkpoint", str(checkpoint), *new]), QUIET)
    said = capsys.readouterr().out
    assert "next:        sample 145 of 240, epoch 1 (step 13)" in said
    for row in (
        r"applied: +learning_rate +0.0001 -> 5e-05",
        r"applied: +num_train_epochs +1.0 -> 2.0",
        r"applied: +per_device_train_batch_size +12 -> 2",
        r"step: +12 -> 2 samples per optimizer step",
    ):
        assert re.search(row, said), row
    # 96 samples of the first epoch and 240 of the second are left, 2 a step.
    state = json.loads((newest(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 12 + 48 + 120
    assert state["epoch"] == 2.0


def test_another_base_model_or_prompt_is_refused(folder: Path, tmp_path: Path) -> None:
    run_shop(folder, "--max_steps", "4")
    with pytest.raises(CheckpointError, match=r"(?s)lora .*'lora_alpha': 32.*'lora_alpha': 16"):
        run_shop(folder, "--resume_from_checkpoint", "--lora_alpha", "16")
    with pytest.raises(CheckpointError, match=r"(?s)seed 42.*seed 7"):
        run_shop(folder, "--resume_from_checkpoint", "--seed", "7")
    back = r"--max_history 20, as in the checkpoint \(here 3\)"
    way = rf"(?s)prompt .*next: +{back}\n.*or start over, .*or if .*--allow_changed"
    with pytest.raises(CheckpointError, match=way):
        run_shop(folder, "--resume_from_checkpoint", "--max_history", "3")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            (),
            r"negatives +a retriever's in the \d+ prompts whose right item it also proposes, uniform in the others\n",
        ),
        (
            ("--hard_negatives", "0.5", "--hard_negatives_at", "all"),
            r"negatives +50% a retriever's in all prompts\n",
        ),
        (("--hard_negatives", "0"), r"negatives +uniform\n"),
    ],
)
def test_it_says_what_the_wrong_candidates_are(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    train_ranker(parse(argv_of(folder, "--max_steps", "1", *flags)), Console(width=80))
    assert re.search(said, capsys.readouterr().out)


def test_lists_of_a_retriever_that_was_trained_on_their_users_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, *_ = parse(argv_of(folder))
    train_retriever(data, replace(SHOP_RETRIEVER, hard_negative_folds=1), QUIET)
    argv = argv_of(folder, "--max_steps", "1")
    train_ranker(parse(argv), Console(width=80))
    said = capsys.readouterr().out
    assert re.search(
        r"trained on these items; to use others: python train_retriever\.py .*--hidden_size 16.*\)\n", said
    )
    train_ranker(parse([*argv, "--resume_from_checkpoint"]), Console(width=80))
    assert "to use others" not in capsys.readouterr().out


def test_other_lists_for_training_are_refused(folder: Path) -> None:
    run_shop(folder, "--max_steps", "4")
    path = folder / "experiments" / "lru" / "shop" / "hard_negatives.parquet"
    lists, metadata = pl.read_parquet(path), pl.read_parquet_metadata(path)
    places = lists["label_place"].to_list()
    places[len(places) // 2] += 1
    changed = lists.with_columns(pl.Series("label_place", places, dtype=pl.Int32))
    content = io.BytesIO()
    changed.write_parquet(content, metadata={"llamarec": metadata["llamarec"]})
    replace_in_retriever(folder, path.name, content.getvalue())
    way = r"(?s)training_lists .*as they were: python train_ret.*--hidden_size 16.*\n.*--allow_changed training_lists"
    with pytest.raises(CheckpointError, match=way):
        run_shop(folder, "--resume_from_checkpoint", "--max_steps", "6")
    # And a plan sees it without a model.
    with pytest.raises(CheckpointError, match=way):
        plan.execute(plan_of(str(checkpoints_of(folder)), "--max_steps", "6"))
    run_shop(folder, "--resume_from_checkpoint", "--max_steps", "6", "--allow_changed", "training_lists")


def test_a_plan_says_which_changes_it_cannot_judge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_shop(folder, "--max_steps", "4")
    capsys.readouterr()
    assert plan.execute(plan_of(str(checkpoints_of(folder)), "--max_history", "3", "--learning_rate", "1e-5")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--max_history decides prompt and data: training refuses a difference without --allow_changed prompt" in said
    assert "experiment_root" not in said
    assert "--learning_rate decides" not in said
    assert plan.execute(plan_of(str(checkpoints_of(folder)), "--bf16", "true")) == 0
    assert "--bf16 decides base_model" in " ".join(capsys.readouterr().out.split())


def test_steps_of_before_are_not_refused(folder: Path) -> None:
    kept = kept_values({"max_steps": 0, "seed": 3}, ["max_steps"], [], ["max_steps", "seed"])
    assert kept == {"seed": 3}, "0 was no limit"


def test_the_command_of_a_run_that_was_moved_is_of_where_it_lies(folder: Path, tmp_path: Path) -> None:
    run_shop(folder, "--max_steps", "1")
    moved = Path(shutil.move(folder / "experiments", tmp_path / "moved"))
    words = shlex.split(retrain_command(Experiment(moved, "shop")))
    assert words[words.index("--experiment_root") + 1] == str(moved)
    assert "--output_dir" not in words
    assert words[words.index("--learning_rate") + 1] == "0.001"
    assert words[-1] == "--restart"


def test_without_a_retriever_it_says_so_and_names_the_command(folder: Path) -> None:
    shutil.rmtree(folder / "experiments" / "lru")
    # Of a table of one's own with the path and whatever else makes it the same data.
    command = f"python train_retriever.py {typed(argv_of(folder)[:6])}"
    with pytest.raises(ArtifactError, match=rf"(?s)no trained retriever.*{re.escape(command)}\n"):
        run_shop(folder)


def test_data_flags_may_be_left_out_later_and_others_are_refused(folder: Path) -> None:
    argv = argv_of(folder, "--max_steps", "2")
    at = argv.index("--min_item_interactions")
    without = [*argv[:at], *argv[at + 2 :]]
    assert parse(without).data.min_item_interactions == 1, "as it was prepared"
    prepared = folder / "experiments" / "data" / "shop" / "manifest.json"
    before = prepared.read_bytes()
    for argv in ([*without, "--min_item_interactions", "3"], argv_of(folder, "--split", "temporal")):
        with pytest.raises(ArtifactError, match=r"(?s)\(prepared with.*train_retriever.py.*--prepare_again"):
            train_ranker(parse(argv), QUIET)
    assert prepared.read_bytes() == before
    (folder / "shop.csv").unlink()
    by_name = ["--dataset_code", "shop", *without[2:]]
    assert train_ranker(parse(by_name), QUIET).outcome.comparison.num_users == NUM_USERS


def test_with_a_flag_it_trains_the_retriever_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(folder / "experiments" / "lru")
    quick = {"num_epochs": 2, "hidden_size": 16}
    monkeypatch.setattr("llamarec.retriever.train.defaults_for", lambda _: quick)
    assert run_shop(folder, "--train_retriever", "--max_steps", "2", "--num_candidates", "22").num_users == NUM_USERS


def test_a_retriever_of_too_few_items_is_not_even_trained(folder: Path) -> None:
    shutil.rmtree(folder / "experiments")
    lines = (folder / "shop.csv").read_text(encoding="utf-8").splitlines()
    few = [re.sub(r"((?<=,i)|(?<=Film ))\d+", lambda item: str(int(item[0]) % 20), line) for line in lines]
    (folder / "shop.csv").write_text("\n".join(few) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--num_candidates 20: too many users have fewer") as refused:
        run_shop(folder, "--train_retriever")
    assert not (folder / "experiments" / "lru").exists()
    flag, number = refused.value.retry_with
    assert run_shop(folder, "--train_retriever", "--max_steps", "2", flag, number).num_users == NUM_USERS


def test_too_few_candidates_names_the_command(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"(?s)--num_candidates 20, or.*--min_item_inter.*--top_k 22") as refused:
        run_shop(folder, "--num_candidates", "22")
    assert refused.value.retry_with == ("--num_candidates", "20")


@pytest.mark.parametrize(
    ("said_by_the_hub", "answer"),
    [
        (
            "We couldn't connect to the hub to load the files",
            r"(?s)base model some/model cannot be loaded.*smollm2-135m",
        ),
        ("You are trying to access a gated repo", r"(?s)some/model is gated.*accept the licence.*hf auth login"),
    ],
)
def test_an_absent_base_model_is_answered_with_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, said_by_the_hub: str, answer: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(said_by_the_hub)

    monkeypatch.setattr("llamarec.ranker.model.base_models.AutoTokenizer.from_pretrained", refuse)
    with pytest.raises(ModelError, match=answer):
        run_shop(folder, "--llm_base_model", "some/model")


def test_safetensors_by_a_flag(folder: Path) -> None:
    run_shop(folder, "--max_steps", "4", "--adapter_format", "safetensors")
    files = os.listdir(checkpoints_of(folder) / "checkpoint-4")
    assert "adapter_model.safetensors" in files
    assert "adapter_model.bin" not in files


def test_layers_of_another_form_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def same(self: LlamaMLP, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]

    monkeypatch.setattr(LlamaMLP, "forward", same)
    text = io.StringIO()
    run_shop(folder, "--max_steps", "1", console=Console(file=text, width=300))
    assert "layers       their own code, slower than prompt by prompt: the forward pass of LlamaMLP is replaced" in (
        text.getvalue()
    )
