"""Plain Trainer and plain PEFT, both ways; other kinds of models; a checkpoint that was moved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, set_seed

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.safe_load import load_weights
from tests.resume.runs import stopped
from tests.resume.training import digest, make_model, make_trainer, outcome, state_of
from tests.resume.worker_data import LENGTH, VOCABULARY
from tests.tiny_llama import tiny_llama

SMALL: dict[str, Any] = {"num_samples": 22, "noisy": False}
"""Two epochs of 6 steps of 4, the last of 2: no dropout, for a plain Trainer is not exact with it in mid-epoch."""


def _trainer(folder: Path, config: CheckpointConfig | None = None, **changes: Any) -> Any:
    return make_trainer(folder, config, **{**SMALL, **changes})


class _PlainStop(TrainerCallback):
    """How a plain Trainer is stopped: killed right after a save."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def _weights(trainer: Any) -> dict[str, str]:
    return {name: digest(p) for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A plain Trainer's run that nothing disturbs."""
    trainer = _trainer(tmp_path_factory.mktemp("plain"), cls=Trainer)
    trainer.train()
    return trainer


def _history(trainer: Any) -> list[tuple[Any, ...]]:
    keys = ("step", "epoch", "loss", "grad_norm", "learning_rate", "eval_loss")
    return [tuple(row.get(key) for key in keys) for row in trainer.state.log_history if "train_runtime" not in row]


def test_undisturbed_ours_is_the_plain_trainer(plain: Any, tmp_path: Path) -> None:
    ours = _trainer(tmp_path)
    ours.train()
    assert _weights(ours) == _weights(plain)
    assert _history(ours) == _history(plain)


@pytest.mark.parametrize("adapter_format", ["bin", "safetensors"])
@pytest.mark.parametrize("step", [3, 7])
def test_a_plain_trainer_resumes_ours(adapter_format: str, step: int, plain: Any, tmp_path: Path) -> None:
    stop = stopped(_trainer(tmp_path, CheckpointConfig(adapter_format=adapter_format)), step)
    assert (Path(stop.checkpoint) / f"adapter_model.{adapter_format}").is_file()
    resumed = _trainer(tmp_path / "plain", cls=Trainer)
    resumed.train(resume_from_checkpoint=stop.checkpoint)
    assert _weights(resumed) == _weights(plain)


def test_ours_resumes_a_plain_trainers(plain: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "seen"
    with pytest.raises(KeyboardInterrupt):
        _trainer(tmp_path / "run", cls=Trainer, callbacks=(_PlainStop(),)).train()
    capsys.readouterr()
    resumed = _trainer(tmp_path / "run", seen=log)
    resumed.train("latest")
    said = capsys.readouterr().out
    assert "no manifest, saved by a plain Trainer: its content cannot be verified" in said
    assert "next:        sample 13 of 22, epoch 1 (step 4)" in said
    order = resumed.epoch_order(0, 22)[12:]
    seen = [int(word) for line in log.read_text().splitlines() if len(line.split()) <= 2 for word in line.split()]
    assert seen[:10] == list(order)
    assert _weights(resumed) == _weights(plain)


def test_there_and_back_again(plain: Any, tmp_path: Path) -> None:
    """Ours, a plain Trainer, ours: the plain one carries our entry along, which must not be taken for the present."""
    stopped(_trainer(tmp_path), 2)
    with pytest.raises(KeyboardInterrupt):
        _trainer(tmp_path, cls=Trainer, callbacks=(_PlainStop(),)).train(resume_from_checkpoint=True)
    resumed = _trainer(tmp_path)
    resumed.train(str(tmp_path / "checkpoint-3"))
    assert _weights(resumed) == _weights(plain)


def test_peft_loads_checkpoint_and_best_model(tmp_path: Path) -> None:
    for adapter_format in ("bin", "safetensors"):
        folder = tmp_path / adapter_format
        trainer = _trainer(folder, CheckpointConfig(adapter_format=adapter_format))
        trainer.train()
        best = f"checkpoint-{trainer.state.best_global_step}"
        # Training ends with the best model in memory.
        expected = load_weights(folder / best)
        for place in (folder, folder / best):
            model = PeftModel.from_pretrained(make_model().unload(), str(place))
            assert (place / f"adapter_model.{adapter_format}").is_file()
            found = {name.replace(".default", ""): p for name, p in model.named_parameters() if "lora_" in name}
            assert expected is not None
            assert {name: digest(p) for name, p in found.items()} == {n: digest(p) for n, p in expected.items()}
            live = {name.replace(".default", ""): p for name, p in trainer.model.named_parameters() if "lora_" in name}
            assert {name: digest(p) for name, p in live.items()} == {n: digest(p) for n, p in expected.items()}


def _full_model() -> Any:
    set_seed(1)
    return tiny_llama(vocab_size=VOCABULARY, attention_dropout=0.1)


def _tied_model() -> Any:
    model = _full_model()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    return model


class Plain(torch.nn.Module):
    """No transformer: a bag of words with dropout and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = torch.nn.EmbeddingBag(VOCABULARY, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.out = torch.nn.Linear(8, VOCABULARY)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Predicts the last token from the others."""
        pooled = torch.nn.functional.dropout(self.norm(self.embedding(input_ids[:, : LENGTH - 1])), 0.1, self.training)
        logits = self.out(pooled)
        if labels is None:
            return {"logits": logits}
        return {"loss": torch.nn.functional.cross_entropy(logits, labels[:, -1]), "logits": logits}


@pytest.mark.parametrize("make", [_full_model, _tied_model, Plain])
@pytest.mark.parametrize("background", [True, False])
def test_other_models_resume_exactly(make: Any, background: bool, tmp_path: Path) -> None:
    config = CheckpointConfig(background_saves=background)

    def trainer(name: str) -> Any:
        # Every batch has two samples at least, as batch norm wants.
        return make_trainer(tmp_path / name, config, model=make(), num_samples=20, eval_strategy="steps")

    whole = trainer("whole")
    whole.train()
    stopped(trainer("run"), 4)
    resumed = trainer("run")
    resumed.train("latest")
    assert _weights(resumed) == _weights(whole)
    found, expected = (tmp_path / name / "checkpoint-10" for name in ("run", "whole"))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    buffers = [{name: digest(b) for name, b in t.model.named_buffers()} for t in (resumed, whole)]
    assert buffers[0] == buffers[1]


def test_a_moved_run_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_trainer(tmp_path / "whole", num_samples=22)
    whole.train()
    stopped(make_trainer(tmp_path / "before/run", num_samples=22), 8)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "before/run", tmp_path / "elsewhere/run of mine")
    monkeypatch.chdir(tmp_path / "elsewhere")
    resumed = make_trainer(Path("run of mine"), num_samples=22)
    resumed.train("latest")
    assert outcome(Path("run of mine")) == outcome(tmp_path / "whole")
    assert Path(resumed.state.best_model_checkpoint).parent.name == "run of mine"
    assert _weights(resumed) == _weights(whole)


def test_a_checkpoint_alone_resumes_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_trainer(tmp_path / "whole", num_samples=22).train()
    stop = stopped(make_trainer(tmp_path / "run", num_samples=22), 5)
    shutil.copytree(stop.checkpoint, tmp_path / "here/copy")
    monkeypatch.chdir(tmp_path / "here")
    trainer = make_trainer(tmp_path / "other", num_samples=22)
    trainer.train("copy")
    found, expected = (state_of(tmp_path / name / "checkpoint-12") for name in ("other", "whole"))
    assert found["adapter"] == expected["adapter"]
    assert found["optimizer"] == expected["optimizer"]
    assert found["rng"] == expected["rng"]


def test_patience_goes_on(tmp_path: Path) -> None:
    """Validations without a gain are counted over a stop."""

    def trainer(name: str) -> Any:
        made = make_trainer(tmp_path / name, num_samples=22, patience=3, eval_steps=1, save_steps=1, learning_rate=0.0)
        assert any(isinstance(callback, EarlyStoppingCallback) for callback in made.callback_handler.callbacks)
        return made

    assert trainer("whole").train().global_step == 4
    stopping = trainer("run")
    stopped(stopping, 3)
    assert trainer("run").train("latest").global_step == 4
