"""The situations of a guide's last table, in its order, each brought about for real."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import RunLock
from llamarec.ranker.training.trainer import RankerTrainer
from tests.docs.project import STEPS_UNTIL_STOP, Project, Ran, run

CHECKPOINTS: Final = Path("experiments/llm/beauty/checkpoints")
TRAIN: Final = "python train_ranker.py --dataset_code beauty"
RESUME: Final = f"{TRAIN} --resume_from_checkpoint"


@dataclass
class Trouble:
    """A folder in which something goes wrong, and what the program says of it."""

    project: Project
    folder: Path
    said: list[Ran] = field(default_factory=list)

    def begin(self, state: str) -> None:
        """In a copy of this state."""
        self.project.copy(state, self.folder)

    def run(self, command: str, code: int, *, stop_after: int = 0) -> None:
        """Runs a command that is to end with this code."""
        ran = run(command, self.folder, stop_after=stop_after)
        assert ran.code == code, f"exit code {ran.code} instead of {code}: {command}\n{ran.said}"
        self.said.append(ran)

    @property
    def checkpoints(self) -> Path:
        """The run's folder."""
        return self.folder / CHECKPOINTS


def not_found(trouble: Trouble) -> None:
    trouble.begin("interrupted")
    trouble.run(f"{RESUME} {CHECKPOINTS.as_posix()}/checkpoint-1200", 2)


def step_zero(trouble: Trouble) -> None:
    trouble.begin("ready")
    trouble.run(RESUME, 75, stop_after=STEPS_UNTIL_STOP)


def flag_forgotten(trouble: Trouble) -> None:
    trouble.begin("interrupted")
    trouble.run(TRAIN, 2)


def too_large_a_batch(trouble: Trouble) -> None:
    trouble.begin("interrupted")
    with _memory_for(6):
        trouble.run(f"{RESUME} --per_device_train_batch_size 12", 0)


def too_large_a_sample(trouble: Trouble) -> None:
    trouble.begin("interrupted")
    with _memory_for(0):
        trouble.run(RESUME, 2)


def too_large_a_validation(trouble: Trouble) -> None:
    trouble.begin("interrupted")
    with _memory_for(2, "prediction_step"):
        trouble.run(f"{RESUME} --max_steps {_newest(trouble) + STEPS_UNTIL_STOP}", 0)


def nothing_to_read(trouble: Trouble) -> None:
    trouble.begin("interrupted")


def damaged(trouble: Trouble) -> None:
    trouble.begin("interrupted")
    for step in (1000, _newest(trouble)):
        _cut_off(trouble.checkpoints / f"checkpoint-{step}" / "optimizer.pt")
    trouble.run(f"{RESUME} {CHECKPOINTS.as_posix()}/checkpoint-1000", 2)
    trouble.run(RESUME, 75, stop_after=STEPS_UNTIL_STOP)


def all_damaged(trouble: Trouble) -> None:
    trouble.begin("interrupted")
    trouble.run("llamarec checkpoints backup beauty ../backup/beauty", 0)
    for path in trouble.checkpoints.glob("checkpoint-*"):
        _cut_off(path / "trainer_state.json")
    trouble.run(RESUME, 2)


def disk_full(trouble: Trouble) -> None:
    trouble.begin("interrupted")
    with mock.patch("llamarec.checkpoints.storage.space.free_bytes", return_value=1000):
        trouble.run(RESUME, 2)
    with mock.patch("llamarec.checkpoints.trainer.saves.writer.free_bytes", return_value=1000):
        trouble.run(RESUME, 74)


def another_run(trouble: Trouble) -> None:
    trouble.begin("interrupted")
    with RunLock(RunFolder(trouble.checkpoints)):
        trouble.run(RESUME, 2)


def another_identity(trouble: Trouble) -> None:
    trouble.begin("interrupted")
    for flag in ("--lora_r 16", "--seed 7", "--max_history 2"):
        trouble.run(f"{RESUME} {flag}", 2)


def from_elsewhere(trouble: Trouble) -> None:
    trouble.begin("interrupted")
    other = "experiments/llm/beauty-r16/checkpoints"
    trouble.run(f"{TRAIN} --lora_r 16 --max_steps 10 --output_dir {other}", 0)
    trouble.run(f"{RESUME} {other}/checkpoint-10", 2)


def finished(trouble: Trouble) -> None:
    trouble.begin("finished")
    trouble.run(RESUME, 0)


TROUBLES: Final[tuple[Callable[[Trouble], None], ...]] = (
    not_found,
    step_zero,
    flag_forgotten,
    too_large_a_batch,
    too_large_a_sample,
    too_large_a_validation,
    nothing_to_read,  # worse
    nothing_to_read,  # no better
    damaged,
    all_damaged,
    disk_full,
    another_run,
    another_identity,
    from_elsewhere,
    finished,
)


@contextlib.contextmanager
def failing_step(failure: Callable[[Any], None], step: str = "training_step") -> Iterator[None]:
    """A training whose forward passes (or those of `step`) call `failure(inputs)` first."""
    before = getattr(RankerTrainer, step)

    def checked(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        failure(inputs)
        return before(self, model, inputs, *args, **kwargs)

    with mock.patch.object(RankerTrainer, step, checked):
        yield


def _memory_for(num_samples: int, step: str = "training_step") -> contextlib.AbstractContextManager[None]:
    """As on a GPU that holds so many samples."""

    def check(inputs: Any) -> None:
        if len(inputs["labels"]) > num_samples:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return failing_step(check, step)


def _newest(trouble: Trouble) -> int:
    return max(int(path.name.rpartition("-")[2]) for path in trouble.checkpoints.glob("checkpoint-*"))


def _cut_off(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
