"""The command that trains a run of the ranker again, from the flags in its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.storage.discovery import best_in, newest_manifest, order_of_saves
from llamarec.command import TRAIN_RANKER, command_of, typed
from llamarec.data.config import DataConfig
from llamarec.ranker.trained.locations import folder_of
from llamarec.vocabulary import Experiment

# Flags of a single start, not of the run.
_NOT_REPEATED: Final = (
    "resume_from_checkpoint",
    "restart",
    "allow_changed",
    "allow_partial_resume",
    "max_failed_starts",
)


def training_command(given: Mapping[str, Any], *more: str) -> str:
    """A train_ranker.py command with flags by name, as in a manifest; `--dataset_code` first."""
    words = command_of(TRAIN_RANKER)
    for name, value in sorted(given.items(), key=lambda item: (item[0] != "dataset_code", item[0])):
        if name not in _NOT_REPEATED and value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return typed([*words, *more])


def experiment_flags(experiment: Experiment) -> dict[str, str]:
    """The flags that name an experiment."""
    root = str(experiment.root)
    at = {"experiment_root": root} if root != DataConfig.experiment_root else {}
    return {"dataset_code": experiment.dataset_code, **at}


def retrain_command(experiment: Experiment, **changes: Any) -> str:
    """The command that trains a ranker again from the start, with its flags and some changes."""
    folder = folder_of(experiment)
    manifest = newest_manifest(order_of_saves(folder)) or best_in(folder)
    given = dict(manifest.given) if manifest is not None else {}

    # The present paths; the run may have been moved since.
    for path in ("experiment_root", "output_dir"):
        given.pop(path, None)
    at = {**experiment_flags(experiment), **_output_dir(experiment)}
    return training_command({**given, **at, **changes}, "--restart")


def test_again_command(experiment: Experiment) -> str:
    """The command that tests a finished ranker again, which fits the weights of its final score anew."""
    return training_command({**experiment_flags(experiment), **_output_dir(experiment)}, "--resume_from_checkpoint")


def _output_dir(experiment: Experiment) -> dict[str, str]:
    folder = folder_of(experiment).path
    return {"output_dir": str(folder)} if folder.resolve() != _default_folder(experiment) else {}


def _default_folder(experiment: Experiment) -> Path:
    return replace(experiment, ranker_at=None).checkpoints.resolve()
