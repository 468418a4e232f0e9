"""`list` and `show`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.publish import publish
from tests.checkpoints.factory import damage, fill, make_plain_run, make_run, manifest
from tests.cli.checkpoints_command import Command


def _rows(output: str) -> dict[str, list[str]]:
    """Table rows by their first cell."""
    return {line.split()[0]: line.split() for line in output.splitlines() if line.split()[:1] and line[:5].strip()}


def test_list_shows_each_checkpoint_with_its_marks(command: Command) -> None:
    make_run(command.checkpoints(), (100, 200, 300, 400, 500), best_model=True)
    output = command.narrow("list", "beauty")
    assert "step epoch   loss metric   size    age verified marks" in output
    rows = _rows(output)
    assert rows["100"][1:4] == ["0.50", "1.9000", "-"]
    assert rows["200"][-2:] == ["sizes", "BP"]
    assert rows["300"][-1] == "P"
    assert rows["500"][-2:] == ["sizes", "LP"]
    assert rows["500"][6:8] == ["5", "min"]
    assert "200 (best), 300 (one of the\n  last 3)" in output
    assert "best model in the folder itself: step 200" in output
    assert "checked by name and size only; to check hashes: --verify" in output


def test_list_without_a_run_shows_all(command: Command) -> None:
    make_run(command.checkpoints("beauty"))
    make_plain_run(command.checkpoints("games"), (10, 20), best=10)
    output = command.narrow("list")
    assert output.startswith("beauty")
    assert "\n\ngames" in output
    assert _rows(output)["20"][-2:] == ["names", "LP"]
    assert _rows(output)["10"][-1] == "BP"


def test_list_of_a_folder_shows_the_runs_in_it(command: Command, tmp_path: Path) -> None:
    for name in ("first", "second"):
        make_plain_run(tmp_path / "runs" / name, (10, 20), best=10)
    (tmp_path / "runs" / "notes.txt").write_text("mine", encoding="utf-8")
    output = command("list", str(tmp_path / "runs"))
    assert "first" in output
    assert "second" in output
    assert "4 checked, 0 damaged" in command("verify", str(tmp_path / "runs"))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"before_restart": 3}', None])
def test_a_record_of_restarts_that_cannot_be_read_hides_no_run(command: Command, content: bytes | None) -> None:
    make_run(command.checkpoints("beauty"))
    make_plain_run(command.checkpoints("games"), (10, 20), best=10)
    record = RunFolder(command.checkpoints("beauty")).restarted
    if content is None:
        record.mkdir()
    else:
        record.write_bytes(content)
    output = command("list")
    assert "beauty" in output
    assert "games" in output
    assert "restarted.json cannot be read" in command.error


def test_list_verify_hashes(command: Command) -> None:
    run = make_run(command.checkpoints())
    damage(run.checkpoint(300))
    assert _rows(command("list", "beauty"))["300"][-2:] == ["sizes", "LP"]
    output = command.narrow("list", "beauty", "--verify")
    assert _rows(output)["300"][-1] == "NO"
    assert _rows(output)["200"][-2:] == ["hashes", "BLP"]
    assert "checkpoint-300 is damaged: optimizer.pt has changed since" in output
    assert "verified by hash" in output


def test_list_as_json(command: Command) -> None:
    make_run(command.checkpoints())
    content = command.json("list")
    assert content["verified_by"] == "names and sizes"
    (run,) = content["runs"]
    assert (run["latest_step"], run["best_step"], run["best_model_step"]) == (300, 200, None)
    last = run["checkpoints"][-1]
    assert (last["step"], last["epoch"], last["metric_name"]) == (300, 1.5, "overall_ndcg@10")
    assert (last["latest"], last["best"], last["protected"]) == (True, False, "newest good one")
    assert last["bytes"] > 1000
    assert datetime.fromisoformat(last["created"]) < datetime.now(UTC)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"metric_name": "loss", "evaluation": {"step": 100, "eval_loss": 1.5}}, 1.5),
        ({"metric_name": "eval_loss", "evaluation": {"step": 100, "eval_loss": 1.5}}, 1.5),
        ({"metric_name": "loss", "evaluation": {"step": 50, "eval_loss": 1.5}}, None),
        ({"metric_name": "loss", "best_step": 100, "best_metric": 1.25}, 1.25),
        ({"metric_name": "loss", "best_step": 50, "best_metric": 1.25}, None),
        ({}, None),
    ],
)
def test_the_metric_is_that_of_the_checkpoints_own_step_and_no_training_loss(
    command: Command, metrics: dict[str, Any], expected: float | None
) -> None:
    made = replace(manifest(100, 0, datetime.now(UTC)), metrics={"loss": 9.0, **metrics})
    publish(RunFolder(command.checkpoints()), made, partial(fill, step=100))
    assert command.json("list")["runs"][0]["checkpoints"][0]["metric"] == expected


def test_list_of_nothing_says_where_it_looked(command: Command) -> None:
    assert "no runs under" in command("list")
    assert command.json("list")["runs"] == []
    command.checkpoints().mkdir(parents=True)
    assert "no checkpoints" in command("list", "beauty")


def test_list_of_an_unknown_run_names_the_nearest(command: Command) -> None:
    make_run(command.checkpoints())
    command("list", "beuaty", code=2)
    assert "error: no run beuaty" in command.error
    assert "llamarec checkpoints list beauty" in command.error


def test_list_points_at_what_kills_left(command: Command) -> None:
    run = make_run(command.checkpoints())
    run.saving(400).mkdir()
    assert "1 left by killed saves or deletions; to clear: llamarec" in command.narrow("list", "beauty")


def test_show_says_everything_given_options_first(command: Command) -> None:
    make_run(command.checkpoints())
    assert command("show", "beauty") == command("show", "beauty:latest"), "of a run the newest"
    output = command.narrow("show", "beauty:best")
    order = [
        "health  good (all hashes match)",
        "position in the data",
        "metrics",
        "hyperparameters given by the user\n  learning_rate  5e-05",
        "other hyperparameters\n  lora_r",
        "fingerprints",
        "environment",
        "history of the run",
        "started on host-a",
        "interruption 1: resumed from",
        "changed learning_rate: 0.0001 -> 5e-05",
        "files",
        "adapter_model.bin",
    ]
    places = [output.index(text) for text in order]
    assert places == sorted(places)


def test_show_as_json(command: Command) -> None:
    run = make_run(command.checkpoints())
    content = command.json("show", "beauty:200")
    assert content["health"] == "good"
    assert content["interruptions"] == 1
    assert content["manifest"]["given"] == {"learning_rate": 5e-5}
    assert content["sizes"]["optimizer.pt"] == (run.checkpoint(200) / "optimizer.pt").stat().st_size


def test_a_loss_that_is_no_number_is_null_in_json(command: Command) -> None:
    run = RunFolder(command.checkpoints())
    made = manifest(100, 0, datetime.now(UTC))
    publish(run, replace(made, metrics={"loss": float("nan")}), partial(fill, step=100))
    assert command.json("show", "beauty:100")["manifest"]["metrics"] == {"loss": None}
    assert command.json("list")["runs"][0]["checkpoints"][0]["loss"] is None
    assert "nan" in command.narrow("list", "beauty")


def test_show_names_damage_and_what_a_resume_would_lose(command: Command) -> None:
    run = make_run(command.checkpoints())
    (run.checkpoint(200) / "optimizer.pt").unlink()
    output = command.narrow("show", "beauty:200")
    assert "health                damaged" in output
    assert "optimizer.pt is missing" in output
    assert "a resume loses the optimizer's\n" in output


def test_show_of_a_plain_trainers_checkpoint_says_so(command: Command) -> None:
    make_plain_run(command.checkpoints(), best=100)
    output = command.narrow("show", "beauty:latest")
    assert "unverified (no manifest to verify against)" in output
    assert "No manifest: a plain Trainer saved this." in output
    assert "global_step" in output
    assert "eval_loss" in output
    content = command.json("show", "beauty:latest")
    assert content["manifest"] is None
    assert content["trainer_state"]["best_global_step"] == 100
    assert content["trainer_state"]["last_log"]["loss"] == 1.7


def test_show_survives_a_manifest_and_a_state_that_are_garbage(command: Command) -> None:
    run = make_run(command.checkpoints())
    (run.checkpoint(100) / "manifest.json").write_bytes(b"{")
    (run.checkpoint(100) / "trainer_state.json").write_bytes(b"[")
    output = command("show", "beauty:100")
    assert "damaged" in output
    assert "nothing (the file is missing or cannot be read)" in output
