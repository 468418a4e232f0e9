"""Whole runs with the tiny model: files, figures, resume, and what is said when something is missing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from rich.console import Console

from llamarec.checkpoints.discovery import order_of_saves
from llamarec.checkpoints.layout import RunFolder
from llamarec.checkpoints.publish import read_best
from llamarec.command import typed
from llamarec.errors import ArtifactError, CheckpointError, ConfigError, ModelError
from llamarec.evaluation.comparison import Comparison
from llamarec.evaluation.fusion import read_fusion
from llamarec.evaluation.metrics import ndcg_at
from llamarec.ranker.arguments import parse
from llamarec.ranker.first_stage import FirstStage
from llamarec.ranker.run import train_ranker
from llamarec.recommend.recommender import Recommender
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.title_words import TitleSimilarity
from llamarec.retriever.train import train_retriever
from llamarec.vocabulary import Experiment

QUIET = Console(quiet=True)
NUM_USERS, NUM_ITEMS = 40, 60


def _write_table(path: Path) -> None:
    """Users who walk round a circle of items with a stride of their own: easy for a retriever, with 60 items."""
    rng = np.random.default_rng(0)
    lines = ["user,item,timestamp,title"]
    for user in range(NUM_USERS):
        start, stride = int(rng.integers(NUM_ITEMS)), 1 + user % 3
        items = [(start + step * stride) % NUM_ITEMS for step in range(9)]
        lines += [f"u{user},i{item},{time},Film {item} of many" for time, item in enumerate(items)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a trained retriever."""
    folder = tmp_path_factory.mktemp("shop")
    _write_table(folder / "shop.csv")
    data, *_ = parse(_argv(folder))
    config = RetrieverConfig(hidden_size=16, num_epochs=30, dropout=0.1, batch_size=8, learning_rate=3e-3)
    train_retriever(data, config, QUIET)
    return folder


@pytest.fixture
def folder(shop: Path, tmp_path: Path) -> Path:
    """A copy of it for each test."""
    return Path(shutil.copytree(shop, tmp_path / "shop"))


def _argv(folder: Path, *more: str) -> list[str]:
    return [
        *("--dataset_code", str(folder / "shop.csv"), "--experiment_root", str(folder / "experiments")),
        *("--min_item_interactions", "1", "--llm_base_model", "tiny", "--report_to", "none", "--disable_tqdm", "true"),
        *(
            "--max_steps",
            "12",
            "--save_steps",
            "4",
            "--per_device_train_batch_size",
            "4",
            "--use_cpu",
            "--bf16",
            "false",
        ),
        *("--dataloader_pin_memory", "false", "--lora_dropout", "0.1", "--learning_rate", "1e-3"),
        *more,
    ]


def _run(folder: Path, *more: str, console: Console = QUIET) -> Comparison:
    return train_ranker(parse(_argv(folder, *more)), console).outcome.comparison


def _checkpoints(folder: Path) -> Path:
    return folder / "experiments" / "llm" / "shop" / "checkpoints"


def _newest(folder: Path) -> Path:
    return order_of_saves(RunFolder(_checkpoints(folder)))[0]


def _tensors(path: Path) -> dict[str, str]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in content.items()}


def test_a_run_leaves_what_was_promised(folder: Path) -> None:
    comparison = _run(folder)
    checkpoints = _checkpoints(folder)
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


def test_every_test_user_is_written_down(folder: Path) -> None:
    _run(folder)
    run = folder / "experiments" / "llm" / "shop"
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    users = pl.read_parquet(run / "test.parquet")
    assert len(users) == NUM_USERS
    for column, table in (("final_rank", metrics), ("letters_rank", metrics["letters"])):
        row = next(row for row in table["overall"] if row["metric"] == "ndcg@10")
        assert ndcg_at(users[column].to_numpy(), 10) == pytest.approx(row["ranker"])
        assert ndcg_at(users["retriever_rank"].to_numpy(), 10) == pytest.approx(row["retriever"])
    asked = users.filter(pl.col("retriever_rank") > 0)
    assert len(asked) == metrics["num_covered"] == users["candidate_ids"].count()
    for user in asked.iter_rows(named=True):
        assert user["candidate_ids"][user["retriever_rank"] - 1] == user["label_id"]
        assert user["scores"] == sorted(user["scores"], reverse=True)
        ordered = sorted(user["final_scores"], reverse=True)
        assert user["final_scores"][user["retriever_rank"] - 1] == ordered[user["final_rank"] - 1]


def test_the_fusion_lies_beside_the_best_adapter_and_is_used(folder: Path) -> None:
    _run(folder)
    metrics = json.loads((folder / "experiments" / "llm" / "shop" / "metrics.json").read_text(encoding="utf-8"))
    fusion, best = read_fusion(_checkpoints(folder)), read_best(_checkpoints(folder))
    assert fusion is not None
    assert best is not None
    assert "fusion.json" in best.files
    assert best.step == fusion.step == metrics["best_step"]
    assert metrics["fusion"] == json.loads((_checkpoints(folder) / "fusion.json").read_text(encoding="utf-8"))
    # Each checkpoint has its own, so that any can become the best one.
    for path in _checkpoints(folder).glob("checkpoint-*"):
        of_step = read_fusion(path)
        assert of_step is not None
        assert path.name == f"checkpoint-{of_step.step}"


def test_without_a_stored_fusion_it_is_fitted_again(folder: Path) -> None:
    first = _run(folder)
    (_checkpoints(folder) / "fusion.json").unlink()
    assert _run(folder, "--resume_from_checkpoint") == first
    without = _run(folder, "--restart", "--eval_strategy", "no", "--load_best_model_at_end", "false")
    assert without.num_users == NUM_USERS


def test_the_published_recipe_by_flags(folder: Path) -> None:
    (folder / "experiments" / "lru" / "shop" / "hard_negatives.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"hard_negatives\.parquet: .*missing"):
        _run(folder)
    _run(folder, "--hard_negatives", "0", "--candidate_order", "retriever", "--order_prompts", "0")
    metrics = json.loads((folder / "experiments" / "llm" / "shop" / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["fusion"]["letter_prior"]) == {0.0}
    assert metrics["orders"] is None


@pytest.mark.parametrize("change", ["{ broken", "altered"])
def test_a_fusion_that_is_not_the_saved_one_is_fitted_again(
    folder: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    first = _run(folder)
    path = _checkpoints(folder) / "fusion.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    altered = json.dumps({**content, "letters": 1.0 - content["letters"], "alpha": -7.0})
    path.write_text(altered if change == "altered" else change, encoding="utf-8")
    assert _run(folder, "--resume_from_checkpoint") == first
    # It belongs to the best model, which is put back as it was saved.
    assert "is not as it was saved; put back from checkpoint-" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == json.dumps(content, indent=2) + "\n"


def test_metrics_say_what_was_done(folder: Path) -> None:
    _run(folder, "--seed", "5")
    metrics = json.loads((folder / "experiments" / "llm" / "shop" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["seed"] == 5
    assert metrics["config"]["llm_base_model"] == "tiny"
    assert metrics["retriever_config"]["seed"] == RetrieverConfig().seed
    assert set(metrics["versions"]) >= {"llamarec", "torch", "transformers"}


def test_titles_left_out_on_a_resume_are_left_out_of_the_fusion_that_is_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "llamarec.ranker.run.fit_first_stage", lambda data, *_: FirstStage(TitleSimilarity(data.titles), 2.0)
    )
    _run(folder)
    experiment = Experiment(folder / "experiments", "shop")
    metrics = experiment.ranker / "metrics.json"
    assert json.loads(metrics.read_text(encoding="utf-8"))["fusion"]["title_weight"] == 2.0
    _run(folder, "--resume_from_checkpoint", "--title_similarity", "false")
    assert json.loads(metrics.read_text(encoding="utf-8"))["fusion"]["title_weight"] == 0.0
    recommender = Recommender.load(experiment.ranker, device="cpu")
    assert recommender.ranker.fusion.title_weight == 0.0


def test_two_runs_of_one_process_have_logs_of_their_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    for one in (folder, other):
        train_ranker(parse([*_argv(one, "--max_steps", "2"), "--report_to", "tensorboard"]), QUIET)
        assert list((one / "experiments" / "llm" / "shop" / "logs").glob("events.*"))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "mine"))
    train_ranker(parse([*_argv(folder, "--max_steps", "2", "--restart"), "--report_to", "tensorboard"]), QUIET)
    assert list((tmp_path / "mine").glob("events.*"))


def test_a_test_in_shuffles(folder: Path) -> None:
    _run(folder, "--test_shuffles", "3", "--max_steps", "4")
    metrics = json.loads((folder / "experiments" / "llm" / "shop" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["fusion"]["shuffles"] == 3
    with pytest.raises(ConfigError, match="--test_shuffles 3 with --candidate_order retriever"):
        parse(_argv(folder, "--test_shuffles", "3", "--candidate_order", "retriever"))


def test_a_part_of_the_prompts_is_trained_on(folder: Path) -> None:
    _run(folder, "--max_train_prompts", "24", "--max_steps", "-1", "--num_train_epochs", "2")
    state = json.loads((_newest(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 12


def test_the_best_adapter_is_loaded_by_plain_peft(folder: Path) -> None:
    _run(folder)
    model = AutoPeftModelForCausalLM.from_pretrained(_checkpoints(folder))
    assert any("lora_B" in name and parameter.abs().sum() > 0 for name, parameter in model.named_parameters())
    state = json.loads((_checkpoints(folder) / "checkpoint-12" / "trainer_state.json").read_text(encoding="utf-8"))
    best = _tensors(_checkpoints(folder) / "adapter_model.bin")
    assert best == _tensors(_checkpoints(folder) / f"checkpoint-{state['best_global_step']}" / "adapter_model.bin")


def test_the_best_adapter_is_kept_although_its_step_was_not_saved(folder: Path) -> None:
    _run(folder, "--eval_steps", "1", "--max_steps", "6", "--save_steps", "6", "--learning_rate", "5e-2")
    state = json.loads((_checkpoints(folder) / "checkpoint-6" / "trainer_state.json").read_text(encoding="utf-8"))
    best = max((row for row in state["log_history"] if "eval_loss" in row), key=lambda row: row["eval_overall_ndcg@10"])
    assert state["best_metric"] == best["eval_overall_ndcg@10"]
    assert (_checkpoints(folder) / "adapter_model.bin").is_file()
    assert not (_checkpoints(folder) / ".best").exists()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_resumed_in_the_middle_ends_in_the_same_bits(folder: Path, workers: str) -> None:
    more = ["--dataloader_num_workers", workers, "--gradient_accumulation_steps", "2"]
    _run(folder, *more)
    whole = _tensors(_checkpoints(folder) / "checkpoint-12" / "adapter_model.bin")
    for name in ("checkpoint-8", "checkpoint-12"):
        shutil.rmtree(_checkpoints(folder) / name)
    _run(folder, *more, "--resume_from_checkpoint", str(_checkpoints(folder) / "checkpoint-4"))
    assert _tensors(_checkpoints(folder) / "checkpoint-12" / "adapter_model.bin") == whole


def test_a_second_epoch_is_resumed_exactly_too(folder: Path) -> None:
    # 40 users with 6 training samples each: 240 prompts, 15 steps of 16 an epoch; step 20 lies in the second.
    more = ["--per_device_train_batch_size", "16", "--max_steps", "24", "--save_steps", "10"]
    _run(folder, *more)
    whole = _tensors(_checkpoints(folder) / "checkpoint-24" / "adapter_model.bin")
    shutil.rmtree(_checkpoints(folder) / "checkpoint-24")
    _run(folder, *more, "--resume_from_checkpoint")
    assert _tensors(_checkpoints(folder) / "checkpoint-24" / "adapter_model.bin") == whole


def test_latest_without_a_checkpoint_starts_and_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(folder, "--max_steps", "4", "--resume_from_checkpoint")
    assert "there is no checkpoint in" in capsys.readouterr().out


def test_a_path_that_is_no_checkpoint_lists_the_ones_there_are(folder: Path) -> None:
    _run(folder, "--max_steps", "8")
    wanted = str(_checkpoints(folder) / "checkpoint-1000")
    answer = (
        r"(?s)checkpoint not found: .*checkpoint-4 \(step 4, verified\).*next: +--resume_from_checkpoint .*checkpoint-8"
    )
    with pytest.raises(CheckpointError, match=answer):
        _run(folder, "--resume_from_checkpoint", wanted)


def test_a_start_over_an_earlier_run_is_refused(folder: Path) -> None:
    _run(folder, "--max_steps", "4")
    with pytest.raises(CheckpointError, match=r"(?s)earlier run.*checkpoint-4.*--resume_from_checkpoint.*--restart"):
        _run(folder)
    _run(folder, "--max_steps", "4", "--restart")


def test_a_resume_keeps_what_the_first_command_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(folder, "--lora_r", "4", "--weight_decay", "0.02")
    whole = _tensors(_checkpoints(folder) / "checkpoint-12" / "adapter_model.bin")
    for name in ("checkpoint-8", "checkpoint-12"):
        shutil.rmtree(_checkpoints(folder) / name)
    short = _argv(folder)[:4]
    capsys.readouterr()
    train_ranker(parse([*short, "--resume_from_checkpoint"]), QUIET)
    said = capsys.readouterr().out
    assert re.search(r"kept: +lora_r +4 \(as in the checkpoint; default 8\)", said)
    assert re.search(r"kept: +max_steps +12 ", said)
    assert _tensors(_checkpoints(folder) / "checkpoint-12" / "adapter_model.bin") == whole


def test_the_promised_resume_takes_every_new_value(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*_argv(folder)[:10], "--use_cpu", "--bf16", "false", "--save_steps", "4", "--num_train_epochs", "1"]
    argv += ["--per_device_train_batch_size", "12", "--disable_tqdm", "true", "--early_stopping_patience", "0"]
    train_ranker(parse(argv), QUIET)
    capsys.readouterr()
    new = ["--learning_rate", "5e-5", "--num_train_epochs", "2", "--per_device_train_batch_size", "2"]
    checkpoint = _checkpoints(folder) / "checkpoint-12"
    train_ranker(parse([*_argv(folder)[:4], "--resume_from_checkpoint", str(checkpoint), *new]), QUIET)
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
    state = json.loads((_newest(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 12 + 48 + 120
    assert state["epoch"] == 2.0


def test_another_base_model_or_prompt_is_refused(folder: Path, tmp_path: Path) -> None:
    _run(folder, "--max_steps", "4")
    with pytest.raises(CheckpointError, match=r"(?s)lora .*'lora_alpha': 32.*'lora_alpha': 16"):
        _run(folder, "--resume_from_checkpoint", "--lora_alpha", "16")
    with pytest.raises(CheckpointError, match=r"(?s)seed 42.*seed 7"):
        _run(folder, "--resume_from_checkpoint", "--seed", "7")
    with pytest.raises(CheckpointError, match=r"(?s)prompt .*--allow_changed"):
        _run(folder, "--resume_from_checkpoint", "--max_history", "3")


def test_without_a_retriever_it_says_so_and_names_the_command(folder: Path) -> None:
    shutil.rmtree(folder / "experiments" / "lru")
    # Of a table of one's own with the path and whatever else makes it the same data.
    command = f"python train_retriever.py {typed(_argv(folder)[:6])}"
    with pytest.raises(ArtifactError, match=rf"(?s)no trained retriever.*{re.escape(command)}\n"):
        _run(folder)


def test_data_flags_may_be_left_out_later_and_others_are_refused(folder: Path) -> None:
    argv = _argv(folder, "--max_steps", "2")
    at = argv.index("--min_item_interactions")
    without = [*argv[:at], *argv[at + 2 :]]
    assert parse(without).data.min_item_interactions == 1, "as it was prepared"
    prepared = folder / "experiments" / "data" / "shop" / "manifest.json"
    before = prepared.read_bytes()
    for argv in ([*without, "--min_item_interactions", "3"], _argv(folder, "--split", "temporal")):
        with pytest.raises(ArtifactError, match=r"(?s)it was prepared with.*train_retriever.py.*--prepare_again"):
            train_ranker(parse(argv), QUIET)
    assert prepared.read_bytes() == before
    (folder / "shop.csv").unlink()
    by_name = ["--dataset_code", "shop", *without[2:]]
    assert train_ranker(parse(by_name), QUIET).outcome.comparison.num_users == NUM_USERS


def test_with_a_flag_it_trains_the_retriever_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(folder / "experiments" / "lru")
    quick = {"num_epochs": 2, "hidden_size": 16}
    monkeypatch.setattr("llamarec.retriever.train.defaults_for", lambda _: quick)
    assert _run(folder, "--train_retriever", "--max_steps", "2", "--num_candidates", "22").num_users == NUM_USERS


def test_a_retriever_of_too_few_items_is_not_even_trained(folder: Path) -> None:
    shutil.rmtree(folder / "experiments")
    lines = (folder / "shop.csv").read_text(encoding="utf-8").splitlines()
    few = [re.sub(r",i(\d+),", lambda item: f",i{int(item[1]) % 20},", line) for line in lines]
    (folder / "shop.csv").write_text("\n".join(few) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--num_candidates 20: not every user") as refused:
        _run(folder, "--train_retriever")
    assert not (folder / "experiments" / "lru").exists()
    flag, number = refused.value.retry_with
    assert _run(folder, "--train_retriever", "--max_steps", "2", flag, number).num_users == NUM_USERS


def test_too_few_candidates_names_the_command(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"(?s)--num_candidates 20, or.*--min_item_inter.*--top_k 22") as refused:
        _run(folder, "--num_candidates", "22")
    assert refused.value.retry_with == ("--num_candidates", "20")


def test_a_part_of_the_users_is_tested_where_asked(folder: Path) -> None:
    assert _run(folder, "--max_steps", "2", "--max_test_users", "15").num_users == 15


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

    monkeypatch.setattr("llamarec.ranker.base_models.AutoTokenizer.from_pretrained", refuse)
    with pytest.raises(ModelError, match=answer):
        _run(folder, "--llm_base_model", "some/model")


def test_safetensors_by_a_flag(folder: Path) -> None:
    _run(folder, "--max_steps", "4", "--adapter_format", "safetensors")
    files = os.listdir(_checkpoints(folder) / "checkpoint-4")
    assert "adapter_model.safetensors" in files
    assert "adapter_model.bin" not in files
