"""Whether a checkpoint that was just written can be resumed: read by the resume's own path, compared bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from llamarec.checkpoints.resume.progress import progress_in
from llamarec.checkpoints.resume.safe_load import load_pickled, load_weights, refuse_hostile, weights_in
from llamarec.checkpoints.resume.trainer_state import read_trainer_state
from llamarec.checkpoints.storage.layout import TRAINER_STATE
from llamarec.checkpoints.trainer.saves.save_errors import NotResumableError
from llamarec.checkpoints.trainer.state.differences import difference
from llamarec.checkpoints.trainer.state.extra_state import read_extra_state
from llamarec.checkpoints.trainer.state.model_files import WeightsFile
from llamarec.checkpoints.trainer.state.snapshot import digest_of
from llamarec.checkpoints.trainer.state.weights import Weights
from llamarec.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a checkpoint was written from.

    Attributes:
        step: Optimizer steps done.
        files: The weights files.
        weights: By name in the model's state, copies; digests where the live model wrote its files itself.
        extra: What lies beside the weights files.
        objects: By file, what is pickled.
    """

    step: int
    files: list[WeightsFile]
    weights: Mapping[str, Tensor] | Mapping[str, bytes]
    extra: Mapping[str, Tensor]
    objects: Mapping[str, object]


class ReadBack:
    """Reads a checkpoint back.

    Args:
        weights: What a resume loads the model with.
        allowed: Differences that a resume allows.
    """

    def __init__(self, weights: Weights, allowed: frozenset[str]) -> None:
        self._weights, self._allowed = weights, allowed

    def check(self, folder: Path, content: Content) -> str:
        """Compares a folder with what it was written from.

        Args:
            folder: Of the checkpoint, before it has its name.
            content: What it was written from.

        Returns:
            What was found equal, for a line to the user.

        Raises:
            NotResumableError: names the first difference.
        """
        try:
            refuse_hostile(folder, self._allowed)
            if progress_in(read_trainer_state(folder)) is None:
                raise CheckpointError(f"{folder / TRAINER_STATE} is of another step than {content.step}")

            self._weights.check(folder)
            num_tensors = _compare_weights(folder, content)
            _compare("extra state", dict(content.extra), read_extra_state(folder))
            for name, value in content.objects.items():
                # From the file's own pages: a second optimizer's state would not fit beside a large model's.
                _compare(name, value, load_pickled(folder / name, in_memory=False))
        except CheckpointError as error:
            raise _not_resumable(content.step, error, folder) from error

        num_tensors += len(content.extra)
        return (
            f"checkpoint-{content.step} was read back: {num_tensors} tensors, optimizer, schedule, random states equal"
        )


def _compare_weights(folder: Path, content: Content) -> int:
    """Number of tensors in the weights files that are those of the model."""
    num_tensors = 0
    for file in content.files:
        path = folder / file.folder
        shards = [load_weights(path) or {}] if file.adapter else weights_in(path)
        for saved in shards:
            for key, value in saved.items():
                before = content.weights.get(file.names.get(key, key))
                if isinstance(before, Tensor):
                    _compare(f"weights: {key}", before.cpu(), value)
                elif before is not None:
                    _compare(f"weights: {key}", before, digest_of(value))

                # What is computed for a file is not: what it is computed from is in the extra state.
                num_tensors += before is not None

    return num_tensors


def _compare(name: str, saved: object, read: object) -> None:
    path = difference(saved, read)
    if path is not None:
        raise CheckpointError(f"{name}{path} is not read as it was saved")


def _not_resumable(step: int, error: CheckpointError, folder: Path) -> NotResumableError:
    # The folder has not got its name yet, and will not.
    problem = error.problem.replace(f"{folder}/", "").replace(str(folder), f"checkpoint-{step}")
    return NotResumableError(
        f"checkpoint-{step} could not be resumed, so it is not kept: {problem}",
        expected=error.expected,
        found=error.found.replace(str(folder), f"checkpoint-{step}") if error.found else None,
        hint=[
            "keep only tensors, numbers, texts and containers in what is saved",
            "or train without this check: --read_back false",
        ],
    )
