"""What is not resumed without being asked for: by its name, with both values, and with what to type."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.storage.layout import MANIFEST
from llamarec.checkpoints.storage.verification import ESSENTIAL, PARTS
from llamarec.errors import CheckpointError, ConfigError, LockedError
from tests.resume.runs import At, kill_self, quiet_trainer, stopped
from tests.resume.training import make_model
from tests.resume.worker_data import Words

SMALL: dict[str, Any] = {"num_samples": 12, "noisy": False, "save_steps": 100}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with checkpoint-4 of 6 steps; tests copy it."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    stopped(quiet_trainer(folder, **SMALL), 4)
    return folder


@pytest.fixture(scope="module")
def saved_by_a_plain_trainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a Trainer that was killed after its save."""
    folder = tmp_path_factory.mktemp("plain") / "run"

    def kill() -> None:
        raise KeyboardInterrupt

    trainer = quiet_trainer(folder, cls=Trainer, callbacks=(At(4, "on_save", kill),), **{**SMALL, "save_steps": 4})
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return folder


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def _trainer(folder: Path, config: CheckpointConfig | None = None, **changes: Any) -> Any:
    return quiet_trainer(folder, config, **{**SMALL, **changes})


def _other_base() -> Any:
    model = make_model(dropout=0.0)
    with torch.no_grad():
        next(p for p in model.parameters() if not p.requires_grad).add_(0.01)
    return model


class _OtherWords(Words):
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = super().__getitem__(index)
        return {**sample, "input_ids": sample["input_ids"].flip(0)}


def _with_other_data(folder: Path, config: CheckpointConfig | None = None) -> Any:
    trainer = _trainer(folder, config)
    trainer.train_dataset = _OtherWords(12, noisy=False)
    return trainer


CHANGES: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "lora": (
        lambda *args: _trainer(*args, model=make_model(dropout=0.0, alpha=16)),
        ["'lora_alpha': 8", "'lora_alpha': 16"],
    ),
    "base_model": (lambda *args: _trainer(*args, model=_other_base()), ["base_model"]),
    "data": (_with_other_data, ["data 12 samples, "]),
    "seed": (lambda *args: _trainer(*args, seed=7), ["seed 42", "seed 7", "the order of the samples follows from it"]),
    "data_seed": (lambda *args: _trainer(*args, data_seed=7), ["data_seed None", "data_seed 7"]),
    "train_sampling_strategy": (
        lambda *args: _trainer(*args, train_sampling_strategy="sequential"),
        ["train_sampling_strategy random", "train_sampling_strategy sequential"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_identifies_the_run_may_not_change(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, texts = CHANGES[name]
    before = sorted(path.name for path in run.rglob("*"))
    with pytest.raises(CheckpointError) as error:
        make(run).train("latest")
    said = str(error.value)
    assert f"{run / 'checkpoint-4'} belongs to a different run than this command" in said
    assert all(text in said for text in texts), said
    assert f"{name} " in (error.value.expected or "")
    assert f"{name} " in (error.value.found or "")
    assert f"--allow_changed {name}" in said
    assert sorted(path.name for path in run.rglob("*")) == before
    # The flag that it names lets it pass, and the plan says what changed.
    capsys.readouterr()
    assert make(run, CheckpointConfig(allow_changed=name)).train("latest").global_step == 6
    assert f"applied:     {name}" in capsys.readouterr().out


def test_a_flag_for_something_else_does_not_help(run: Path) -> None:
    with pytest.raises(CheckpointError, match="--allow_changed seed"):
        _trainer(run, CheckpointConfig(allow_changed="lora,data"), seed=7).train("latest")


def test_all_may_change(run: Path) -> None:
    trainer = _trainer(run, CheckpointConfig(allow_changed="all"), seed=7, model=_other_base())
    assert trainer.train("latest").global_step == 6


def test_another_shape_is_refused_whatever_is_allowed(run: Path) -> None:
    base = make_model(dropout=0.0).unload()
    model = get_peft_model(base, LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    with pytest.raises(CheckpointError, match="have another shape than this model's"):
        _trainer(run, CheckpointConfig(allow_changed="all"), model=model).train("latest")


@pytest.mark.parametrize("part", [part for part in PARTS if part not in ESSENTIAL])
def test_a_missing_part_of_a_plain_checkpoint_is_named(
    part: str, saved_by_a_plain_trainer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(saved_by_a_plain_trainer, tmp_path / "run"))
    checkpoint = run / "checkpoint-4"
    (checkpoint / part).unlink()
    with pytest.raises(CheckpointError) as error:
        _trainer(run).train(str(checkpoint))
    assert f"{part} is missing" in str(error.value)
    assert f"--allow_partial_resume to continue without: {part}" in str(error.value)
    with pytest.raises(CheckpointError, match=f"{part} is missing"):
        _trainer(run).train("latest")
    capsys.readouterr()
    trainer = _trainer(run, CheckpointConfig(allow_partial_resume=True))
    assert trainer.train(str(checkpoint)).global_step == (4 + 6 if part == "trainer_state.json" else 6)
    assert f"lost:        {part}: {PARTS[part]} start over" in capsys.readouterr().out


def test_a_missing_part_that_a_manifest_lists_can_be_gone_on_without(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = run / "checkpoint-4"
    (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"--allow_partial_resume to continue without: optimizer\.pt"):
        _trainer(run).train(str(checkpoint))
    _trainer(run, CheckpointConfig(allow_partial_resume=True)).train(str(checkpoint))
    assert f"lost:        optimizer.pt: {PARTS['optimizer.pt']} start over" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["adapter_config.json", "adapter_model.safetensors", MANIFEST])
def test_with_a_manifest_another_missing_file_is_damage(part: str, run: Path) -> None:
    (run / "checkpoint-4" / part).unlink()
    with pytest.raises(CheckpointError, match=f"{part} is missing"):
        _trainer(run, CheckpointConfig(allow_partial_resume=True)).train(str(run / "checkpoint-4"))


@pytest.mark.parametrize(("typed", "meant"), [("lastest", "latest"), ("bset", "best"), ("Latest", "latest")])
def test_a_mistyped_word_is_answered_with_the_word(typed: str, meant: str, run: Path) -> None:
    with pytest.raises(CheckpointError, match=f"checkpoint not found: {typed}") as refused:
        _trainer(run).train(typed)
    assert refused.value.retry_with == ("--resume_from_checkpoint", meant)


def test_a_name_without_a_number_means_the_newest(run: Path) -> None:
    shutil.copytree(run / "checkpoint-4", run / "checkpoint-2")
    with pytest.raises(CheckpointError) as refused:
        _trainer(run).train(str(run / "nope"))
    assert refused.value.retry_with[1].endswith("checkpoint-4")


def test_what_is_allowed_to_differ_must_be_something(run: Path) -> None:
    with pytest.raises(ConfigError, match="--allow_changed dta: no value has this name") as refused:
        _with_other_data(run, CheckpointConfig(allow_changed="dta")).train("latest")
    assert "--allow_changed data" in str(refused.value)


def test_a_restart_that_is_none_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _trainer(run, CheckpointConfig(restart=True)).train("latest")
    assert "note:        --restart counts only where nothing is resumed; checkpoint-4 is" in capsys.readouterr().out


def test_the_folder_of_a_run_is_called_one(run: Path) -> None:
    with pytest.raises(CheckpointError, match="is a run's folder, not a checkpoint") as refused:
        _trainer(run).train(str(run))
    assert refused.value.retry_with == ("--resume_from_checkpoint", str(run / "checkpoint-4"))
    assert "latest or best" in str(refused.value)


def test_begun_over_another_run_to_resume_is_the_advice_where_flags_may_decide(run: Path) -> None:
    trainer = _with_other_data(run)
    with pytest.raises(CheckpointError, match="holds the checkpoints of an earlier run"):
        trainer.train()
    trainer.beyond_flags = ("data",)
    with pytest.raises(CheckpointError, match=r"of another run, with different data") as refused:
        trainer.train()
    assert refused.value.retry_with == ()


def test_without_weights_there_is_nothing_to_go_on_from(saved_by_a_plain_trainer: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(saved_by_a_plain_trainer, tmp_path / "run"))
    (run / "checkpoint-4/adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="a file with weights"):
        _trainer(run, CheckpointConfig(allow_partial_resume=True)).train(str(run / "checkpoint-4"))


def test_an_old_folder_with_an_adapter_only(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old" / "checkpoint-4"
    old.mkdir(parents=True)
    make_model(dropout=0.0).save_pretrained(str(old), safe_serialization=False)
    for path in old.iterdir():
        if path.name not in ("adapter_model.bin", "adapter_config.json"):
            path.unlink()
    with pytest.raises(CheckpointError) as error:
        _trainer(tmp_path / "new").train(str(old))
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        assert f"{name} is missing" in str(error.value)
    trainer = _trainer(tmp_path / "new", CheckpointConfig(allow_partial_resume=True))
    trainer.train(str(old))
    said = capsys.readouterr().out
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        assert f"lost:        {name}: {PARTS[name]} start over" in said


def test_a_second_run_in_the_same_folder(tmp_path: Path) -> None:
    errors: list[LockedError] = []

    def begin_another() -> None:
        with pytest.raises(LockedError) as error:
            _trainer(tmp_path).train()
        errors.append(error.value)

    _trainer(tmp_path, callbacks=(At(2, "on_step_end", begin_another),)).train()
    (error,) = errors
    assert f"another run is training in {tmp_path}" in str(error)
    assert f"process {os.getpid()} on " in str(error)
    assert not (tmp_path / ".run.json").exists()
    assert (tmp_path / "checkpoint-6").is_dir()


def test_a_checkpoint_of_another_run_does_not_go_on_over_this_one(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    stopped(_trainer(other), 2)
    there = sorted(run.rglob("*"))
    with pytest.raises(CheckpointError) as caught:
        _trainer(run).train(str(other / "checkpoint-2"))
    assert f"{run} holds the checkpoints of another run" in str(caught.value)
    assert f"--output_dir {other} continues that run" in str(caught.value)
    assert caught.value.retry_with == ("--output_dir", str(other))
    assert sorted(run.rglob("*")) == there
    _trainer(tmp_path / "new").train(str(other / "checkpoint-2"))


def test_a_copy_of_this_run_goes_on_here(run: Path, saved: Path) -> None:
    _trainer(run).train(str(saved / "checkpoint-4"))
    # And again, now that there is more.
    shutil.rmtree(run / "checkpoint-6")
    _trainer(run).train(str(saved / "checkpoint-4"))


def test_what_branched_off_does_not_go_on_over_what_it_came_from(run: Path, tmp_path: Path) -> None:
    branch = tmp_path / "branch"
    stopped(_trainer(branch, learning_rate=1e-4), 5, resume=str(run / "checkpoint-4"))
    _trainer(run).train("latest")
    with pytest.raises(CheckpointError, match="holds the checkpoints of another run"):
        _trainer(run).train(str(branch / "checkpoint-5"))


def test_a_branch_is_not_gone_over_by_what_came_later_where_it_left(run: Path, tmp_path: Path) -> None:
    branch = tmp_path / "branch"
    stopped(_trainer(branch, learning_rate=1e-4), 5, resume=str(run / "checkpoint-4"))
    # Of the same process as checkpoint-4, and not on the branch's way.
    main = tmp_path / "main"
    stopped(_trainer(main, save_steps=2), 4)
    early = tmp_path / "early"
    stopped(_trainer(early, learning_rate=1e-4), 5, resume=str(main / "checkpoint-2"))
    with pytest.raises(CheckpointError, match="holds the checkpoints of another run"):
        _trainer(early).train(str(main / "checkpoint-4"))
    # As far as this run, and by another way.
    stopped(_trainer(run), 5, resume="latest")
    with pytest.raises(CheckpointError, match="holds the checkpoints of another run"):
        _trainer(run).train(str(branch / "checkpoint-5"))


def test_a_copy_goes_on_where_nothing_can_be_read(run: Path, saved: Path) -> None:
    (run / "checkpoint-4" / MANIFEST).write_bytes(b"")
    _trainer(run).train(str(saved / "checkpoint-4"))


def test_a_plain_checkpoint_is_begun_with_twice(saved_by_a_plain_trainer: Path, tmp_path: Path) -> None:
    plain, new = saved_by_a_plain_trainer / "checkpoint-4", tmp_path / "new"
    stopped(_trainer(new), 5, resume=str(plain))
    stopped(_trainer(new), 5, resume=str(plain))
    other = tmp_path / "other"
    stopped(_trainer(other), 2)
    with pytest.raises(CheckpointError, match="holds the checkpoints of another run"):
        _trainer(other).train(str(plain))


def test_starting_anew_over_another_run(run: Path) -> None:
    with pytest.raises(CheckpointError, match="holds the checkpoints of an earlier run") as error:
        _trainer(run).train()
    assert "--resume_from_checkpoint" in str(error.value)
    assert "--restart" in str(error.value)
    trainer = _trainer(run, CheckpointConfig(restart=True))
    trainer.add_callback(At(2, "on_step_end", kill_self()))
    with pytest.raises(SystemExit):
        trainer.train()
    # The new run's is the newest, though its step is lower.
    assert _trainer(run).train("latest").global_step == 6


def test_what_cannot_be_resumed_exactly_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--train_sampling_strategy group_by_length"):
        _trainer(tmp_path, train_sampling_strategy="group_by_length")
