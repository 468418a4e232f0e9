"""The first checkpoint is read back: what cannot be resumed stops training while nothing is lost, and by its name."""

from __future__ import annotations

import json
import os
import random
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import HfArgumentParser, TrainerCallback, set_seed
from transformers.trainer_callback import ExportableState

from llamarec.checkpoints import CheckpointConfig, Interrupted, ResumableTrainer
from llamarec.checkpoints.resume.safe_load import weights_in
from llamarec.checkpoints.storage.layout import EXTRA_STATE
from llamarec.checkpoints.trainer.saves.json_values import for_log
from llamarec.checkpoints.trainer.saves.read_back import ReadBack
from llamarec.checkpoints.trainer.saves.save_errors import NotResumableError
from llamarec.cli.entry_point import run_main
from llamarec.errors import EXIT_SAVE_FAILED, EXIT_USAGE, CheckpointError, ConfigError
from tests.resume.runs import At, quiet_trainer
from tests.resume.training import digest, make_args, make_model, state_of
from tests.resume.worker_data import Seen, Words

SAVES: dict[str, Any] = {"max_steps": 6, "save_steps": 2}
LATE_SAVES: dict[str, Any] = {"max_steps": 18, "save_steps": 6}


class Projector:
    """An object of an own class, as low-rank-projection optimizers keep it in their state."""


class Projected(torch.optim.AdamW):
    """Keeps a projector in its state once it is told to, from its fifth step on: the first ones are looked at."""

    projects = True
    num_steps = 0

    def step(self, closure: Any = None) -> Any:
        """See there."""
        loss = super().step(closure)
        self.num_steps += 1
        if self.projects and self.num_steps > 4:
            for state in self.state.values():
                state["projector"] = Projector()
        return loss


def _projected(folder: Path, config: CheckpointConfig | None = None, **changes: Any) -> Any:
    model = make_model()
    optimizer = Projected([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2)
    trainer = quiet_trainer(folder, config, model=model, **{**LATE_SAVES, **changes})
    trainer.optimizer, trainer._resumable.program.makes_optimizer = optimizer, True
    return trainer


# ---- The stop ----


def test_training_stops_before_more_is_done_than_one_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = _projected(tmp_path)
    assert run_main(lambda: int(bool(trainer.train()))) == EXIT_USAGE

    said = capfd.readouterr().err
    assert "checkpoint-6 could not be resumed, so it is not kept: optimizer.pt is refused" in said
    assert "it asks for tests.resume.test_read_back.Projector" in said
    assert "--read_back false" in said
    assert trainer.state.global_step <= 7
    assert trainer.last_save_failed
    assert [
        path.name for path in tmp_path.iterdir() if "checkpoint" in path.name or path.name.startswith(".live")
    ] == []


def test_the_checkpoint_that_was_resumed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Projected, "projects", False)
    _projected(tmp_path, max_steps=6).train()
    before = state_of(tmp_path / "checkpoint-6")

    monkeypatch.setattr(Projected, "projects", True)
    with pytest.raises(NotResumableError, match="checkpoint-12 could not be resumed"):
        _projected(tmp_path).train("latest")
    assert [path.name for path in tmp_path.glob("*checkpoint-*")] == ["checkpoint-6"]
    assert state_of(tmp_path / "checkpoint-6") == before

    monkeypatch.setattr(Projected, "projects", False)
    resumed = _projected(tmp_path)
    resumed.train("latest")
    assert resumed.state.global_step == 18


def test_a_signal_at_the_first_save_promises_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = _projected(tmp_path, save_steps=100)
    trainer.add_callback(At(5))
    with pytest.raises(Interrupted) as stop:
        trainer.train()

    assert stop.value.code == EXIT_SAVE_FAILED
    assert "nothing could be saved" in capfd.readouterr().err


def test_it_can_be_switched_off(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options: Any = CheckpointConfig
    (config,) = HfArgumentParser(options).parse_args_into_dataclasses(["--read_back", "false"])
    _projected(tmp_path, config).train()

    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-12",
        "checkpoint-18",
        "checkpoint-6",
    ]
    said = capfd.readouterr()
    assert "read back" not in said.out + said.err


class Halves(ResumableTrainer):
    """Writes its weights in half precision, from which no resume is exact."""

    def _save(self, output_dir: Any = None, state_dict: Any = None) -> None:
        model: Any = self.model
        halves = {name: value.bfloat16().float() for name, value in model.state_dict().items()}
        super()._save(output_dir, halves)


def test_weights_of_an_own_save_are_compared_too(tmp_path: Path) -> None:
    trainer = Halves(
        model=make_model(), args=_args(tmp_path), train_dataset=Words(noisy=False), data_collator=Seen(noisy=False)
    )
    with pytest.raises(NotResumableError, match=r"weights: .*lora_A.* is not read as it was saved"):
        trainer.train()


# ---- What is said, and what is touched ----


@pytest.mark.parametrize("in_background", [True, False])
def test_the_counts_are_true(tmp_path: Path, capfd: pytest.CaptureFixture[str], in_background: bool) -> None:
    model = make_model()
    model.base_model.model.model.norm.weight.requires_grad_(True)
    config = CheckpointConfig(background_saves=in_background)
    quiet_trainer(tmp_path, config, model=model, max_steps=2, save_steps=2).train()

    checkpoint = tmp_path / "checkpoint-2"
    assert (checkpoint / EXTRA_STATE).is_file()
    num_tensors = sum(len(shard) for shard in weights_in(checkpoint)) + 1
    said = "".join(capfd.readouterr())
    line = f"checkpoint-2 was read back: {num_tensors} tensors, optimizer, schedule, random states equal"
    assert said.count("was read back") == 1
    assert line in said


def _live(trainer: Any) -> dict[str, Any]:
    """Identity and bytes of everything that a step goes by."""
    tensors = {**dict(trainer.model.named_parameters()), **dict(trainer.model.named_buffers())}
    state = trainer.optimizer.state_dict()["state"]
    return {
        "model": {name: (id(value), value.data_ptr(), digest(value)) for name, value in tensors.items()},
        "optimizer": {(number, name): (id(v), digest(v)) for number, of in state.items() for name, v in of.items()},
        "groups": digest(
            [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizer.param_groups]
        ),
        "schedule": digest(trainer.lr_scheduler.state_dict()),
        "random": digest([torch.get_rng_state(), list(np.random.get_state()), list(random.getstate())]),
        "grad": {name: value.requires_grad for name, value in trainer.model.named_parameters()},
        "training": trainer.model.training,
    }


@pytest.mark.parametrize("whole", [False, True])
def test_nothing_is_loaded_into_live_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    model = make_model().base_model.model if whole else make_model()
    trainer = quiet_trainer(tmp_path, CheckpointConfig(background_saves=False), model=model, max_steps=2, save_steps=2)
    states: list[dict[str, Any]] = []
    check = ReadBack.check

    def spied(self: ReadBack, *arguments: Any) -> str:
        states.append(_live(trainer))
        line = check(self, *arguments)
        states.append(_live(trainer))
        return line

    monkeypatch.setattr(ReadBack, "check", spied)
    trainer.train()
    before, after = states
    assert before == after


# ---- Saves that could never succeed ----


class Logs(TrainerCallback):
    """Logs values that JSON does not know, as metrics of a program's own."""

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See there."""
        state.log_history[-1].update(
            number=np.float32(0.5), tensor=torch.tensor(2), nan=float("nan"), labels={"b", "a"}, path=Path("a") / "b"
        )
        state.log_history[-1].update({7: np.arange(2), "half": "\ud800", "object": Projector})


def test_values_that_json_does_not_know_are_logged_as_near_as_it_can(tmp_path: Path) -> None:
    quiet_trainer(tmp_path, callbacks=(Logs(),), **SAVES).train()
    text = (tmp_path / "checkpoint-6" / "trainer_state.json").read_text()
    row = json.loads(text)["log_history"][0]
    assert row["number"] == 0.5
    assert row["tensor"] == 2
    assert row["nan"] != row["nan"]
    assert (row["labels"], row["path"], row["7"], row["half"]) == (["a", "b"], "a/b", [0, 1], "?")

    resumed = quiet_trainer(tmp_path / "again", callbacks=(Logs(),), **SAVES)
    resumed.train(str(tmp_path / "checkpoint-2"))
    weights = [state_of(folder / "checkpoint-6")["adapter"] for folder in (tmp_path, tmp_path / "again")]
    assert weights[0] == weights[1]


class Colour(StrEnum):
    """A text of an enumeration."""

    RED = "red"


def test_for_log_gives_what_json_gives_back() -> None:
    values = {
        "e": Colour.RED,
        "t": torch.eye(2),
        "n": np.int64(3),
        "s": {1, float("inf"), "x"},
        "deep": [(np.bool_(True),)],
    }
    logged = for_log(values)
    assert json.loads(json.dumps(logged)) == logged
    assert logged == {"e": "red", "t": [[1, 0], [0, 1]], "n": 3, "s": [1, float("inf"), "x"], "deep": [[True]]}


class Counts(TrainerCallback, ExportableState):
    """Remembers something that is to be resumed."""

    def __init__(self, seen: Any) -> None:
        self.seen = seen

    def state(self) -> dict[str, Any]:
        """See there."""
        return {"args": {}, "attributes": {"seen": self.seen}}


@pytest.mark.parametrize(
    "seen", [{1, 2}, {3: 4}, np.float32(1), torch.zeros(2), Path("x"), "\udc80", [1, {"a": object()}]]
)
def test_a_callbacks_state_that_json_would_change_stops_the_first_save(tmp_path: Path, seen: Any) -> None:
    trainer = quiet_trainer(tmp_path, callbacks=(Counts(seen),), **SAVES)
    with pytest.raises(NotResumableError, match=r"state\(\) of the callback Counts: *\['attributes'\]\['seen'\]"):
        trainer.train()

    assert trainer.state.global_step <= 7
    assert list(tmp_path.glob("*checkpoint-*")) == []


def test_a_callbacks_plain_state_is_resumed(tmp_path: Path) -> None:
    seen = {"a": [1, 2.5, None, True, float("inf"), "é"], "b": {"c": (1, 2)}}
    quiet_trainer(tmp_path, callbacks=(Counts(seen),), **SAVES).train()
    callback = Counts(None)
    quiet_trainer(tmp_path, callbacks=(callback,), **{**SAVES, "max_steps": 7}).train("latest")
    assert callback.seen == {"a": seen["a"], "b": {"c": [1, 2]}}


class Tied(nn.Module):
    """Two names for one weight, and a weight that is a transposed view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.across = nn.Parameter(torch.randn(8, 4).T)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean square of the output."""
        hidden = self.second(self.first(input_ids.float() / 32)) @ self.across.T
        return {"loss": hidden.square().mean()}


def _args(folder: Path, **changes: Any) -> Any:
    return make_args(folder, **{**SAVES, "eval_strategy": "no", "load_best_model_at_end": False, **changes})


def _tied(folder: Path, config: CheckpointConfig) -> Any:
    set_seed(1)
    return ResumableTrainer(
        model=Tied(),
        args=_args(folder),
        train_dataset=Words(noisy=False),
        data_collator=Seen(noisy=False),
        checkpoint_config=config,
    )


def test_tied_names_and_views_are_saved(tmp_path: Path) -> None:
    whole = _tied(tmp_path, CheckpointConfig())
    whole.train()
    resumed = _tied(tmp_path / "again", CheckpointConfig())
    resumed.train(str(tmp_path / "checkpoint-2"))
    assert digest(dict(whole.model.state_dict())) == digest(dict(resumed.model.state_dict()))


def test_what_the_live_model_cannot_write_stops_the_first_save(tmp_path: Path) -> None:
    trainer = _tied(tmp_path, CheckpointConfig(background_saves=False))
    with pytest.raises(CheckpointError, match=r"checkpoint-2 could not be saved(.|\n)*(share memory|contiguous)"):
        trainer.train()
    assert trainer.state.global_step <= 7


def test_a_file_system_without_chmod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refused)
    quiet_trainer(tmp_path, **SAVES).train()
    assert (tmp_path / "checkpoint-6").is_dir()


def test_save_only_model_is_refused_with_what_to_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--save_only_model leaves out optimizer(.|\n)*--save_total_limit 1"):
        quiet_trainer(tmp_path, save_only_model=True)
