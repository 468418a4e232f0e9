"""One Trainer object that trains more than once, in whatever way its training ended before."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.trainer_utils import HPSearchBackend

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.manifest import read_manifest
from llamarec.checkpoints.storage.verification import verify_best
from llamarec.checkpoints.trainer.signals import EndNow
from llamarec.checkpoints.trainer.state.snapshot import model_state
from tests.resume.runs import At, quiet_trainer, stopped
from tests.resume.training import make_model, make_trainer, state_of
from tests.tiny_llama import tiny_llama

SMALL: dict[str, Any] = {"num_samples": 12, "noisy": False, "save_steps": 100}


def test_a_new_rate_is_applied_to_an_object_that_has_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = quiet_trainer(tmp_path, **SMALL)
    stopped(trainer, 2)
    trainer.callback_handler.callbacks = [c for c in trainer.callback_handler.callbacks if not isinstance(c, At)]
    trainer.args.learning_rate *= 10
    trainer.train("latest")
    assert "learning_rate" in capsys.readouterr().out
    other = quiet_trainer(tmp_path / "other", **SMALL)
    stopped(other, 2)
    fresh = quiet_trainer(tmp_path / "other", **{**SMALL, "learning_rate": trainer.args.learning_rate})
    fresh.train("latest")
    ends = [state_of(folder / "checkpoint-6")["adapter"] for folder in (tmp_path, tmp_path / "other")]
    assert ends[0] == ends[1]


def test_noise_of_an_interrupted_training_is_taken_off(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, **SMALL, neftune_noise_alpha=5.0)
    stopped(trainer, 2)
    hooks = trainer.model.get_input_embeddings()._forward_hooks
    assert len(hooks) == 0


def test_each_trial_of_a_search_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As optuna drives it, which the base does not need; `tests/ecosystem` has the real one."""
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    changes: dict[str, Any] = {**SMALL, "eval_strategy": "no", "load_best_model_at_end": False}
    trainer = quiet_trainer(tmp_path, **changes)
    trainer.hp_search_backend, trainer.hp_space = HPSearchBackend.OPTUNA, lambda trial: {"learning_rate": trial.rate}
    trainer.model_init = lambda: make_model()

    for number, rate in enumerate((1e-3, 2e-3)):
        trainer.train(trial=SimpleNamespace(number=number, params={}, rate=rate))
        manifest = read_manifest(tmp_path / f"run-{number}/checkpoint-6")
        assert manifest is not None
        assert manifest.hyperparameters["learning_rate"] == rate
        # So that two models are never in memory.
        trainer.model = trainer.model_wrapped = None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-0", "run-1"]


def test_weights_that_are_one_in_memory_are_saved_once() -> None:
    model = tiny_llama(tie_word_embeddings=True)
    state = model_state(model)
    assert state is not None
    assert state["lm_head.weight"] is state["model.embed_tokens.weight"]


def test_frozen_weights_are_those_of_the_moment() -> None:
    model = tiny_llama(tie_word_embeddings=False).requires_grad_(False)
    before, state = model.lm_head.weight.clone(), model_state(model)
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)  # as a callback does that keeps an average
    assert state is not None
    assert torch.equal(state["lm_head.weight"], before)


@pytest.mark.slow
def test_workers_of_a_validation_that_were_to_stay_do_not_change_what_is_drawn(tmp_path: Path) -> None:
    """Ones that stay draw their seed once; after a resume it would be drawn again."""
    changes: dict[str, Any] = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    changes |= {"num_samples": 20, "dataloader_prefetch_factor": 2}
    make_trainer(tmp_path / "whole", **changes).train()
    stopped(make_trainer(tmp_path / "run", **changes), 5)
    make_trainer(tmp_path / "run", **changes).train("latest")
    assert state_of(tmp_path / "run/checkpoint-10") == state_of(tmp_path / "whole/checkpoint-10")


def test_every_published_checkpoint_is_handed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[tuple[str, bool]] = []

    def after_save(folder: Path) -> None:
        given.append((folder.name, (folder / "manifest.json").is_file()))
        if len(given) == 1:
            raise ValueError("no network")

    trainer = quiet_trainer(tmp_path, after_save=after_save, **{**SMALL, "save_steps": 3})
    trainer.train()
    assert given == [("checkpoint-3", True), ("checkpoint-6", True)]
    assert "checkpoint-3 is saved, after_save failed: ValueError: no network" in capsys.readouterr().err


def test_the_third_request_does_not_wait_for_a_save_that_hangs(tmp_path: Path) -> None:
    hangs = threading.Event()

    def observer(effect: str, path: Path) -> None:
        if effect == "make" and path.name == "optimizer.pt":
            for _ in range(3):
                # To the process: the thread's own would not wake the other one.
                os.kill(os.getpid(), signal.SIGINT)
                # Two of a kind that come at once are one.
                time.sleep(0.5)
            hangs.wait(30)

    trainer = quiet_trainer(tmp_path, **{**SMALL, "save_steps": 3})
    durable.observer, started = observer, time.monotonic()
    try:
        with pytest.raises(EndNow):
            trainer.train()
        waited = time.monotonic() - started
    finally:
        durable.observer = None
        hangs.set()
    assert waited < 15
    trainer._resumable.writer.wait()


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_best_model_that_is_not_as_it_was_saved_is_put_back(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trainer(tmp_path, **{**SMALL, "save_steps": 3}).train()
    file = next(tmp_path.glob("adapter_model.*"))
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage == "flipped" else content[:-1])
    assert verify_best(tmp_path).health == "damaged"
    capsys.readouterr()
    # A finished run, resumed: nothing is trained.
    make_trainer(tmp_path, **{**SMALL, "save_steps": 3}).train("latest")
    assert file.read_bytes() == content
    assert verify_best(tmp_path).health == "good"
    said = capsys.readouterr().err
    assert "was changed after it was saved; restored from checkpoint-" in said
    assert said.count("restored from") == 1
