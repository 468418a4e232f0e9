"""Another batch size, length, rate or rhythm on resume: every sample once, no jump, everything said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamarec.checkpoints.storage.discovery import order_of_saves
from llamarec.checkpoints.storage.layout import RunFolder
from tests.resume.runs import Watch, epoch_orders, quiet_trainer, rates, samples_in, stopped
from tests.resume.training import make_trainer


def _batches(micro_batch: int, accumulation: int) -> dict[str, Any]:
    return {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulation}


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, 2), (4, 1)), ((4, 1), (1, 3)), ((2, 2), (8, 1)), ((3, 1), (3, 5)), ((3, 2), (64, 1))],
)
def test_every_sample_of_an_epoch_comes_once_whatever_the_batches(
    before: tuple[int, int], after: tuple[int, int], tmp_path: Path
) -> None:
    log = tmp_path / "seen"
    stopped(quiet_trainer(tmp_path / "run", seen=log, **_batches(*before)), 5)
    trainer = quiet_trainer(tmp_path / "run", seen=log, **_batches(*after))
    trainer.train("latest")
    assert samples_in(log) == epoch_orders(trainer, 2)
    assert trainer.state.epoch == 2.0


def test_several_changes_in_one_epoch(tmp_path: Path) -> None:
    log, resume = tmp_path / "seen", None
    for step, batches in ((2, (2, 2)), (4, (1, 3)), (7, (4, 2))):
        stopped(quiet_trainer(tmp_path / "run", seen=log, **_batches(*batches)), step, resume)
        resume = "latest"
    trainer = quiet_trainer(tmp_path / "run", seen=log, **_batches(5, 1))
    trainer.train("latest")
    assert samples_in(log) == epoch_orders(trainer, 2)


@pytest.mark.parametrize(
    ("scheduler", "step", "change"),
    [
        ("linear", 2, _batches(2, 1)),
        ("linear", 11, _batches(4, 2)),
        ("cosine", 11, {"num_train_epochs": 3.0}),
        ("cosine", 2, {"max_steps": 40}),
        ("linear", 11, {"num_train_epochs": 1.5}),
        ("constant_with_warmup", 2, _batches(4, 2)),
    ],
)
def test_the_rate_does_not_jump(
    scheduler: str, step: int, change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same: dict[str, Any] = {"lr_scheduler_type": scheduler, "noisy": False}
    uninterrupted = quiet_trainer(tmp_path / "whole", **same, save_strategy="no")
    uninterrupted.train()
    stopped(quiet_trainer(tmp_path / "run", **same), step)
    resumed = quiet_trainer(tmp_path / "run", **same, **change)
    capsys.readouterr()
    resumed.train("latest")
    old, new = rates(uninterrupted), rates(resumed)
    # The step after the resume has the rate that it would have had, and the plan says so.
    assert new[step + 1] == old[step + 1]
    assert f"{new[step + 1]:.6g} at the next step, unchanged" in capsys.readouterr().out
    # From there on no change is larger than the curve's own steepest, stretched by the larger of the two batches.
    stretch = max(1.0, (26 - step) / (resumed.state.max_steps - step)) * 2
    steepest = max(abs(old[i + 1] - old[i]) for i in range(1, 26))
    assert all(abs(new[i + 1] - new[i]) <= steepest * stretch for i in range(1, resumed.state.max_steps))
    # And it ends where the curve ends.
    last = new[resumed.state.max_steps]
    assert last == pytest.approx(5e-3) if scheduler == "constant_with_warmup" else last < 1e-3


def test_warmup_takes_as_many_samples_with_another_batch(tmp_path: Path) -> None:
    stopped(quiet_trainer(tmp_path, warmup_steps=6), 2)
    trainer = quiet_trainer(tmp_path, warmup_steps=6, **_batches(1, 2))
    trainer.train("latest")
    # 4 steps of 4 samples were left of it: 8 steps of 2, after which the rate is the highest.
    found = rates(trainer)
    assert max(found, key=lambda step: found[step]) == 2 + 8 + 1
    assert found[11] == pytest.approx(5e-3)


def test_a_finished_run_says_that_it_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet_trainer(tmp_path).train()
    log, before = tmp_path / "seen", (tmp_path / "checkpoint-26/manifest.json").read_bytes()
    capsys.readouterr()
    trainer = quiet_trainer(tmp_path, seen=log)
    output = trainer.train("latest")
    assert output.global_step == 26
    assert (
        "finished at step 26. To continue: --num_train_epochs or --max_steps with a larger" in capsys.readouterr().out
    )
    assert samples_in(log) == []
    assert (tmp_path / "checkpoint-26/manifest.json").read_bytes() == before


def test_a_finished_run_is_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "seen"
    quiet_trainer(tmp_path / "run", seen=log).train()
    capsys.readouterr()
    trainer = quiet_trainer(tmp_path / "run", seen=log, num_train_epochs=4.0)
    trainer.train("latest")
    assert samples_in(log) == epoch_orders(trainer, 4)
    said = capsys.readouterr().out
    assert "applied:     num_train_epochs  2.0 -> 4.0" in said
    assert "its learning-rate curve ended: the curve now spans all 52 steps" in said
    # Half of the new curve is done: warm-up of 4 steps, then down to 0 at 52.
    assert rates(trainer)[27] == pytest.approx(5e-3 * (52 - 26) / (52 - 4))


def test_more_epochs_for_a_run_in_the_middle(tmp_path: Path) -> None:
    log = tmp_path / "seen"
    stopped(quiet_trainer(tmp_path / "run", seen=log), 20)
    trainer = quiet_trainer(tmp_path / "run", seen=log, num_train_epochs=3.0)
    trainer.train("latest")
    assert samples_in(log) == epoch_orders(trainer, 3)
    assert trainer.state.global_step == 39


def test_max_steps_in_mid_epoch_is_the_end(tmp_path: Path) -> None:
    log = tmp_path / "seen"
    quiet_trainer(tmp_path / "run", seen=log, max_steps=17).train()
    trainer = quiet_trainer(tmp_path / "run", seen=log, max_steps=17)
    assert trainer.train("latest").global_step == 17
    assert samples_in(log) == epoch_orders(trainer, 2)[: 50 + 4 * 4]


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"weight_decay": 0.25}, "weight_decay", 0.25),
        ({"adam_beta1": 0.5, "adam_beta2": 0.75}, "betas", (0.5, 0.75)),
    ],
)
def test_new_values_of_the_optimizer_are_applied(
    change: dict[str, Any], field: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(quiet_trainer(tmp_path), 6)
    capsys.readouterr()
    watch = Watch()
    quiet_trainer(tmp_path, callbacks=(watch,), **change).train("latest")
    assert {group[field] for group in watch.groups} == {value}
    said = capsys.readouterr().out
    assert all(f"applied:     {name}" in said for name in change)


def test_a_new_rate_is_applied_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = quiet_trainer(tmp_path / "whole", noisy=False, save_strategy="no")
    whole.train()
    stopped(quiet_trainer(tmp_path / "run", noisy=False), 6)
    capsys.readouterr()
    trainer = quiet_trainer(tmp_path / "run", noisy=False, learning_rate=5e-4)
    trainer.train("latest")
    said = capsys.readouterr().out
    assert "applied:     learning_rate  0.005 -> 0.0005 (from the next step on" in said
    assert f"rate:        {rates(whole)[7]:.6g} -> {rates(whole)[7] / 10:.6g} at the next step" in said
    for step in range(7, 27):
        assert rates(trainer)[step] == pytest.approx(rates(whole)[step] / 10)


def test_new_rhythms_are_taken(tmp_path: Path) -> None:
    stopped(make_trainer(tmp_path), 4)
    trainer = make_trainer(tmp_path, save_steps=10, eval_steps=5, logging_steps=4)
    trainer.train("latest")
    history = [row for row in trainer.state.log_history if row["step"] > 4]
    assert [row["step"] for row in history if "loss" in row] == [8, 12, 16, 20, 24]
    assert [row["step"] for row in history if "eval_loss" in row] == [5, 10, 15, 20, 25, 26]
    scheduled = [path.name for path in order_of_saves(RunFolder(tmp_path))]
    assert "checkpoint-10" in scheduled
    assert "checkpoint-20" in scheduled


def test_turning_saves_off_and_on(tmp_path: Path) -> None:
    stopped(quiet_trainer(tmp_path), 4)
    quiet_trainer(tmp_path, save_strategy="epoch").train("latest")
    assert {"checkpoint-13", "checkpoint-26"} <= {path.name for path in tmp_path.glob("checkpoint-*")}


def test_another_kind_of_optimizer_starts_without_moments(tmp_path: Path) -> None:
    stopped(quiet_trainer(tmp_path), 4)
    trainer = quiet_trainer(tmp_path, optim="adafactor")
    trainer.train("latest")
    assert trainer.state.global_step == trainer.state.max_steps


def test_an_early_stop_between_two_saves_is_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {"save_steps": 10, "eval_steps": 2, "patience": 2, "learning_rate": 5.0}
    trainer = make_trainer(tmp_path, noisy=False, **changes, num_train_epochs=4.0)
    trainer.train()
    stop = trainer.state.global_step
    assert stop % 10
    assert order_of_saves(RunFolder(tmp_path))[0].name == f"checkpoint-{stop}"
    best = trainer.state.best_global_step
    assert f"stopped early at step {stop} of 52: no better loss since step {best}." in capsys.readouterr().out
    again = make_trainer(tmp_path, noisy=False, **changes, num_train_epochs=4.0)
    again.train("latest")
    assert again.state.global_step == stop
    assert "the run stopped early" in capsys.readouterr().out
    # What a program takes over from the checkpoint by itself is no wish to go on.
    taken_over = make_trainer(tmp_path, noisy=False, **changes, num_train_epochs=4.0)
    taken_over._defaults = {"early_stopping_patience": 20}
    taken_over.train("latest")
    assert taken_over.state.global_step == stop
    assert "the run stopped early" in capsys.readouterr().out
