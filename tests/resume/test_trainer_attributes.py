"""What a subclass of the Trainer keeps in attributes goes on after a resume as if nothing had happened."""

from __future__ import annotations

import datetime
import enum
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from llamarec.checkpoints import ResumableTrainer
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.trainer.state.plain_containers import decoded, encoded
from llamarec.checkpoints.trainer.state.plain_objects import NotPlainError
from tests.resume.runs import At, quiet_trainer, stopped
from tests.resume.training import state_of


class Counting(ResumableTrainer):
    """Adds up what it sees, in everything that people add up in, and steers its loss by it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.samples_seen = 0
        self.running: Any = torch.zeros(2)
        self.sums: dict[str, Any] = {"train": defaultdict(list), "eval": defaultdict(list)}
        self.recent: deque[float] = deque(maxlen=3)
        self.kinds: set[int] = set()
        self.table = np.zeros(3)
        self.untouched = {"answer": 42}

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
        value = float(loss.detach())
        self.samples_seen += len(inputs["input_ids"])
        self.running = 0.9 * self.running + 0.1 * loss.detach()
        self.sums["train"]["loss"].append(value)
        self.recent.append(value)
        self.kinds.add(self.samples_seen % 5)
        self.table[self.samples_seen % 3] += 1
        self.made_late = getattr(self, "made_late", 0) + 1
        return loss * (1 + self.running[0] * len(self.recent) / 10)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        rows = self.sums["train"].pop("loss", [0.0])
        logs |= {"samples_seen": self.samples_seen, "mean": sum(rows) / len(rows), "late": self.made_late}
        super().log(logs, *args, **kwargs)


_CHANGES: dict[str, Any] = {"num_samples": 24, "max_steps": 8, "save_steps": 100, "logging_steps": 3}


def _trainer(folder: Path) -> Any:
    return quiet_trainer(folder, cls=Counting, **{"noisy": False, **_CHANGES})


def _kept(trainer: Any) -> dict[str, Any]:
    names = ("samples_seen", "running", "sums", "recent", "kinds", "table", "made_late", "untouched")
    return {name: encoded(getattr(trainer, name)) for name in names}


@pytest.mark.parametrize("step", [2, 3, 5])
def test_resumed_is_uninterrupted(step: int, tmp_path: Path) -> None:
    whole = _trainer(tmp_path / "whole")
    whole.train()
    stopped(_trainer(tmp_path / "run"), step)
    resumed = _trainer(tmp_path / "run")
    resumed.train("latest")
    assert state_of(tmp_path / "run/checkpoint-8") == state_of(tmp_path / "whole/checkpoint-8")
    assert str(_kept(resumed)) == str(_kept(whole))
    assert type(resumed.sums["train"]) is defaultdict
    assert resumed.recent.maxlen == 3


def test_only_what_training_changes_is_saved(tmp_path: Path) -> None:
    stopped(_trainer(tmp_path), 2)
    saved = load_pickled(tmp_path / "checkpoint-2/stateful.pt")["attributes of the Trainer"]
    assert saved.keys() == {"samples_seen", "running", "sums", "recent", "kinds", "table", "made_late"}


def test_an_exception_in_a_step_takes_them_back(tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("in a callback")

    trainer = _trainer(tmp_path / "run")
    trainer.add_callback(At(4, "on_substep_end", fail))
    with pytest.raises(ValueError, match="in a callback"):
        trainer.train()
    whole = _trainer(tmp_path / "whole")
    whole.train()
    _trainer(tmp_path / "run").train("latest")
    assert state_of(tmp_path / "run/checkpoint-8") == state_of(tmp_path / "whole/checkpoint-8")


def test_the_same_object_resumes_an_earlier_checkpoint(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, cls=Counting, **{"noisy": False, **_CHANGES, "save_steps": 2})
    stopped(trainer, 5)
    trainer.callback_handler.callbacks = [one for one in trainer.callback_handler.callbacks if not isinstance(one, At)]
    trainer.train(tmp_path / "checkpoint-4")
    assert trainer.samples_seen == 32


def test_a_plain_subclass_has_no_file_of_them(tmp_path: Path) -> None:
    quiet_trainer(tmp_path, **_CHANGES).train()
    assert not (tmp_path / "checkpoint-8/stateful.pt").exists()


class Kind(enum.Enum):
    """Of a setting."""

    ONE = 1
    OTHER = 2


class Pair(NamedTuple):
    """Of anything."""

    first: int
    second: list[int]


@dataclass(frozen=True)
class Setting:
    """Replaced as a whole."""

    rate: float
    parts: tuple[Any, ...]


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, (2.5, None)], 3: b"x"},
        defaultdict(list, {"a": [1]}),
        deque([[1], [2]], maxlen=4),
        {1, 2},
        frozenset({"b"}),
        np.float32(1.5),
        np.arange(4).reshape(2, 2),
        {(1, "a"): [2], None: 3},
        Counter({(1, 2): 3}),
        Kind.OTHER,
        Setting(rate=0.5, parts=(Kind.OTHER, Pair(1, [2]))),
        Path("a/b"),
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        datetime.timedelta(days=1, microseconds=2),
        complex(1, 2),
        torch.float16,
        torch.device("cpu"),
        torch.Size([1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_there_and_back(value: Any) -> None:
    back = decoded(encoded(value))
    assert type(back) is type(value)
    assert repr(back) == repr(value)
    assert getattr(back, "maxlen", None) == getattr(value, "maxlen", None)


def test_live_containers_keep_their_identity() -> None:
    live: dict[str, Any] = {"train": defaultdict(list, {"x": [9]})}
    inner = live["train"]
    assert decoded(encoded({"train": defaultdict(list, {"y": [1]})}), live) is live
    assert live["train"] is inner
    assert inner == {"y": [1]}
    inner["new"].append(1)


def test_other_objects_and_circles_are_not_plain() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (object(), circle, [torch.nn.Parameter(torch.ones(1))], list(range(1_000_000)), {object(): 3}):
        with pytest.raises(NotPlainError):
            encoded(value)
