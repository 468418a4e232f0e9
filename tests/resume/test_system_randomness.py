"""Random bytes of the operating system in a step: the program's line is named, and a library's is not."""

from __future__ import annotations

import os
import random
import secrets
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamarec.checkpoints import ResumableTrainer
from tests.resume.training import make_trainer

ASKS: dict[str, Callable[[], object]] = {
    "os.urandom": lambda: os.urandom(4),
    "uuid4": uuid.uuid4,
    "secrets": lambda: secrets.randbelow(9),
    "SystemRandom": lambda: random.SystemRandom().random(),
    "default_rng()": lambda: np.random.default_rng().random(),
}


def _train(folder: Path, ask: Callable[[], object]) -> Any:
    class Asking(ResumableTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            ask()
            return super().compute_loss(*args, **kwargs)

    trainer = make_trainer(folder, cls=Asking, max_steps=3, noisy=False)
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", ASKS)
def test_the_line_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    before = os.urandom, random._urandom  # type: ignore[attr-defined]
    _train(tmp_path / "run", ASKS[name])

    said = " ".join("".join(capsys.readouterr()).split())
    assert said.count("asks the operating system for random bytes") == 1
    assert "test_system_randomness.py, line" in said
    assert (os.urandom, random._urandom) == before  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "quiet",
    [lambda: np.random.default_rng(3).random(), random.random, tempfile.mkdtemp],
    ids=["seeded", "global", "file"],
)
def test_others_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: Callable[[], object]) -> None:
    _train(tmp_path / "run", quiet)
    assert "asks the operating system" not in "".join(capsys.readouterr())
