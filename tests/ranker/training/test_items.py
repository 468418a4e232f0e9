"""Whole runs of `--readout items` with the tiny model: files, exact resume, evaluation, refusals."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoTokenizer

from llamarec.checkpoints.storage.manifest import read_manifest
from llamarec.data.prepare import prepare
from llamarec.errors import ArtifactError, ConfigError, LlamarecError
from llamarec.evaluation.catalogue import CatalogueOutcome
from llamarec.evaluation.metrics import score_ranks
from llamarec.experts.known import queries_of
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.trained.item_expert import load_item_expert
from llamarec.ranker.trained.loading import read_trained
from llamarec.ranker.trained.locations import folder_of
from llamarec.ranker.training.run import RankerResult, plan_ranker, train_ranker
from llamarec.report.page import render
from llamarec.report.run import read_run
from tests.ranker.shop import NUM_ITEMS, NUM_USERS, QUIET, argv_of, checkpoints_of, newest, run_shop, tensors

ITEMS = ("--readout", "items")


def run_items(folder: Path, *more: str, console: Console = QUIET) -> RankerResult:
    return train_ranker(parse(argv_of(folder, *ITEMS, *more)), console)


def bits(checkpoint: Path) -> dict[str, bytes]:
    """Everything that training moves, by name."""
    found = dict(tensors(checkpoint / "adapter_model.bin"))
    found |= {
        name: value.numpy().tobytes().hex() for name, value in load_file(checkpoint / "extra_state.safetensors").items()
    }
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    found |= {
        f"{key} {name}": value.numpy().tobytes().hex() for key, entry in state.items() for name, value in entry.items()
    }
    return found  # type: ignore[return-value]


def test_a_run_leaves_what_was_promised(folder: Path) -> None:
    outcome = run_items(folder).outcome
    assert isinstance(outcome, CatalogueOutcome)
    assert outcome.comparison.num_users == NUM_USERS
    saved = checkpoints_of(folder) / "checkpoint-8"
    for name in ("adapter_model.bin", "extra_state.safetensors", "item_features.safetensors", "optimizer.pt"):
        assert (saved / name).is_file()
    names = set(load_file(saved / "extra_state.safetensors"))
    assert {name.rpartition(".")[2] for name in names} == {
        *("user_map", "user_bias", "item_map", "item_bias", "free", "bias", "log_scale")
    }
    metrics = json.loads((folder / "experiments" / "llm" / "shop" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["config"]["readout"] == "items"
    assert metrics["catalogue"]["num_users"] == NUM_USERS
    assert metrics["catalogue"]["error"] > 0
    test = pl.read_parquet(folder / "experiments" / "llm" / "shop" / "test.parquet")
    assert test.height == NUM_USERS
    assert test["final_rank"].is_between(1, NUM_ITEMS).all()


def test_fingerprints_are_those_of_the_specification(folder: Path) -> None:
    run_items(folder, "--max_steps", "4", "--max_eval_users", "8")
    manifest = read_manifest(checkpoints_of(folder) / "checkpoint-4")
    assert manifest is not None
    assert {"training_lists", "validation_candidates"}.isdisjoint(manifest.fingerprints)

    tokenizer = AutoTokenizer.from_pretrained(folder / "experiments" / "llm" / "shop" / "tiny")
    separator = tokenizer("x\n", add_special_tokens=False)["input_ids"][1:]
    prompt = json.dumps(["items", [tokenizer.bos_token_id], separator, 20, 1536])
    assert manifest.fingerprints["prompt"] == hashlib.sha256(prompt.encode()).hexdigest()[:16]
    users = np.sort(np.random.default_rng([3, 0]).choice(NUM_USERS, size=8, replace=False)).astype("<i8")
    assert manifest.fingerprints["validation_users"] == hashlib.sha256(users.tobytes()).hexdigest()[:16]


def test_it_learns_the_circle(folder: Path) -> None:
    more = ["--max_steps", "60", "--save_steps", "20", "--learning_rate", "5e-3", "--per_device_train_batch_size", "8"]
    outcome = run_items(folder, *more).outcome
    rows = {row.metric: row for row in outcome.alone.overall}  # type: ignore[union-attr]
    # At random, NDCG@10 among some 52 items is about 0.08.
    assert rows["ndcg@10"].ranker > 0.3
    losses = [row["eval_loss"] for row in _history(folder) if "eval_loss" in row]
    assert losses[-1] < losses[0]


def test_the_best_adapter_has_the_lowest_loss(folder: Path) -> None:
    run_items(folder, "--learning_rate", "2e-2")
    validated = [row for row in _history(folder) if "eval_loss" in row]
    best = min(validated, key=lambda row: row["eval_loss"])["step"]
    state = json.loads((newest(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_global_step"] == best
    for name in ("extra_state.safetensors", "item_features.safetensors"):
        there = checkpoints_of(folder) / name
        assert there.read_bytes() == (checkpoints_of(folder) / f"checkpoint-{best}" / name).read_bytes()


@pytest.mark.parametrize(
    "more", [(), ("--dataloader_num_workers", "2"), ("--gradient_accumulation_steps", "2")], ids=str
)
def test_resumed_in_the_middle_ends_in_the_same_bits(folder: Path, more: tuple[str, ...]) -> None:
    run_items(folder, *more)
    whole = bits(checkpoints_of(folder) / "checkpoint-12")
    for name in ("checkpoint-8", "checkpoint-12"):
        shutil.rmtree(checkpoints_of(folder) / name)
    run_items(folder, *more, "--resume_from_checkpoint", str(checkpoints_of(folder) / "checkpoint-4"))
    assert bits(checkpoints_of(folder) / "checkpoint-12") == whole


def test_a_second_epoch_is_resumed_exactly_too(folder: Path) -> None:
    # Windows of 4 items: 40 users have two each, so an epoch has 10 steps of 8; step 15 lies in the second.
    more = ["--max_history", "4", "--per_device_train_batch_size", "8", "--max_steps", "20", "--save_steps", "15"]
    run_items(folder, *more)
    whole = bits(checkpoints_of(folder) / "checkpoint-20")
    shutil.rmtree(checkpoints_of(folder) / "checkpoint-20")
    run_items(folder, *more, "--resume_from_checkpoint")
    assert bits(checkpoints_of(folder) / "checkpoint-20") == whole


def test_a_resume_needs_no_flag_and_reads_no_titles_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_items(folder, "--max_steps", "4")
    features = (checkpoints_of(folder) / "checkpoint-4" / "item_features.safetensors").read_bytes()
    parsed = parse(argv_of(folder, "--max_steps", "8", "--resume_from_checkpoint"))
    assert parsed.ranker.readout == "items"
    train_ranker(parsed, Console(markup=False))
    assert "titles with the base model" not in capsys.readouterr().out
    assert (checkpoints_of(folder) / "checkpoint-8" / "item_features.safetensors").read_bytes() == features


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_ends_in_the_same_bits(folder: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    run_items(whole)

    command = [sys.executable, "-W", "ignore", "train_ranker.py", *argv_of(folder, *ITEMS), "--resume_from_checkpoint"]
    for step in (4, 8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        saved = checkpoints_of(folder) / f"checkpoint-{step}" / "manifest.json"
        while process.poll() is None and not saved.is_file():
            time.sleep(0.01)
        process.kill()
        process.wait()
    run_items(folder, "--resume_from_checkpoint")
    assert bits(checkpoints_of(folder) / "checkpoint-12") == bits(checkpoints_of(whole) / "checkpoint-12")


def test_another_readout_is_refused_on_resume(folder: Path) -> None:
    run_items(folder, "--max_steps", "4")
    with pytest.raises(ConfigError, match=r"--readout letters: the run was started with --readout items"):
        parse(argv_of(folder, "--readout", "letters", "--resume_from_checkpoint"))
    with pytest.raises(LlamarecError):
        train_ranker(parse(argv_of(folder)), QUIET)


def test_letters_are_refused_as_items(folder: Path) -> None:
    run_shop(folder, "--max_steps", "4")
    with pytest.raises(ConfigError, match=r"--readout items: the run was started with --readout letters"):
        parse(argv_of(folder, *ITEMS, "--resume_from_checkpoint"))


def test_the_plan_counts_histories(folder: Path) -> None:
    plan = plan_ranker(parse(argv_of(folder, *ITEMS, "--max_steps", "-1", "--num_train_epochs", "2")), QUIET)
    # 40 histories an epoch, 4 a step.
    assert plan.work.steps == 20
    assert plan.work.validation_prompts == NUM_USERS


def test_the_expert_scores_what_the_test_ranked(folder: Path) -> None:
    run_items(folder)
    parsed = parse(argv_of(folder, *ITEMS))
    data = prepare(parsed.data, QUIET)
    expert = load_item_expert(parsed.experiment, data, device="cpu")
    assert expert.adapter.is_best

    users = data.sequences.users_with_label("test")
    histories = [data.sequences.history(int(user), "test") for user in users]
    scores_UN = expert.scores(queries_of(data, "test", users))
    assert scores_UN.shape == (NUM_USERS, NUM_ITEMS + 1)
    assert (scores_UN[:, 0] == -np.inf).all()
    # In any company, and of the items alone.
    np.testing.assert_allclose(expert.scores_of(histories[3:4])[0, 1:], scores_UN[3, 1:], rtol=1e-4, atol=1e-4)

    for history, scores in zip(histories, scores_UN, strict=True):
        scores[history] = -np.inf
    labels = np.array([data.sequences.label(int(user), "test") for user in users])
    ranks = score_ranks(scores_UN, labels, listed=False)
    test = pl.read_parquet(folder / "experiments" / "llm" / "shop" / "test.parquet").sort("user_id")
    assert (ranks == test["letters_rank"].to_numpy()).mean() > 0.95


def test_other_readers_name_the_readout(folder: Path) -> None:
    run_items(folder, "--max_steps", "4")
    parsed = parse(argv_of(folder, *ITEMS))
    data = prepare(parsed.data, QUIET)
    with pytest.raises(ArtifactError, match="has no letters, it was trained with --readout items"):
        read_trained(parsed.experiment, data)
    # The best adapter without its item vectors is damaged; the checkpoint that it was copied from has them.
    (checkpoints_of(folder) / "extra_state.safetensors").unlink()
    expert = load_item_expert(parsed.experiment, data, device="cpu")
    assert expert.adapter.folder == checkpoints_of(folder) / "checkpoint-4"


def test_the_expert_of_letters_is_refused(folder: Path) -> None:
    run_shop(folder, "--max_steps", "4")
    parsed = parse(argv_of(folder))
    with pytest.raises(ArtifactError, match=r"this run scores letters, not the whole catalogue(.|\n)*--readout items"):
        load_item_expert(parsed.experiment, prepare(parsed.data, QUIET), device="cpu")


def test_the_report_shows_the_whole_catalogue(folder: Path) -> None:
    run_items(folder)
    experiment = parse(argv_of(folder, *ITEMS)).experiment
    text = render(read_run(folder_of(experiment), experiment))
    assert f"{NUM_USERS} test users, ranked over the whole catalogue" in text
    assert "language model alone" in text
    assert "letters alone" not in text


def _history(folder: Path) -> list[dict[str, float]]:
    state = json.loads((newest(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    return list(state["log_history"])
