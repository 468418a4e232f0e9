"""The resume plan, word by word."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llamarec.checkpoints.resume.compatibility import Change
from llamarec.checkpoints.resume.plan import ResumePlan
from llamarec.checkpoints.resume.position import Position
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.storage.manifest import FileEntry
from llamarec.checkpoints.storage.verification import Verdict
from tests.checkpoints.factory import manifest

FOLDER = Path("run")
MANIFEST = replace(
    manifest(300, 2, datetime(2026, 1, 1, tzinfo=UTC)), files={"adapter_model.bin": FileEntry(52_428_800, "0" * 64)}
)
GOOD = Verdict(FOLDER / "checkpoint-300", "good", manifest=MANIFEST, seconds=0.25)
PLAN = ResumePlan(
    choice=ResumeChoice(GOOD, (), "latest"),
    step=300,
    position=Position(1, 400),
    num_samples=3200,
    steps_to_go=100,
    steps_to_go_before=100,
    batch=(16, 16),
    rate=(5e-5, 5e-5),
)


def _lines(**changes: Any) -> list[str]:
    return replace(PLAN, **changes).lines()


def test_nothing_changed() -> None:
    assert _lines() == [
        f"resume:      {FOLDER / 'checkpoint-300'} (latest; 1 files, 52.4 MB verified in 0.2 s)",
        "next:        sample 401 of 3,200, epoch 2 (step 301)",
        "to go:       100 steps",
        "rate:        5e-05 at the next step, unchanged",
        "changes:     none: every hyperparameter is as in the checkpoint",
    ]


def test_all_that_can_be_said() -> None:
    bad = Verdict(FOLDER / "checkpoint-400", "damaged", ("optimizer.pt is missing",))
    lines = _lines(
        choice=ResumeChoice(GOOD, (bad,), "latest"),
        steps_to_go=50,
        batch=(16, 32),
        rate=(5e-5, 2.5e-5),
        lost=("optimizer.pt: the optimizer's moments start over",),
        notes=("a note",),
        changes=(
            Change("learning_rate", 1e-4, 5e-5, "applied", "from the next step on"),
            Change("lora_r", 16, 16, "kept", "as in the checkpoint; default 8"),
        ),
    )
    assert lines[1:] == [
        "passed over: checkpoint-400: optimizer.pt is missing",
        "lost:        optimizer.pt: the optimizer's moments start over",
        "next:        sample 401 of 3,200, epoch 2 (step 301)",
        "to go:       50 steps (was 100)",
        "step:        16 -> 32 samples per optimizer step",
        "rate:        5e-05 -> 2.5e-05 at the next step",
        "note:        a note",
        "applied:     learning_rate  0.0001 -> 5e-05 (from the next step on)",
        "kept:        lora_r         16 (as in the checkpoint; default 8)",
    ]


def test_an_epoch_that_is_not_closed() -> None:
    assert "next:        sample 1 of 3,200, epoch 3 (step 301)" in _lines(position=Position(1, 3200))


def test_finished() -> None:
    assert (
        "next:        nothing: this run is finished at step 300. To continue: --num_train_epochs or --max_steps with a "
        "larger number" in _lines(steps_to_go=0)
    )


def test_a_plain_trainers() -> None:
    verdict = Verdict(FOLDER / "checkpoint-300", "unverified", seconds=0.1)
    assert _lines(choice=ResumeChoice(verdict, (), "given"))[0] == (
        f"resume:      {FOLDER / 'checkpoint-300'} (given; no manifest, saved by a plain Trainer: its content "
        "cannot be verified; scanned in 0.1 s)"
    )


def test_for_programs() -> None:
    content = json.loads(json.dumps(PLAN.as_dict()))
    assert content["step"] == 300
    assert content["samples_per_step"] == {"old": 16, "new": 16}
    assert content["learning_rate"] == {"old": 5e-5, "new": 5e-5}
    assert content["passed_over"] == []
