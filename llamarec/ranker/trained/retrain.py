"""The command of a run of the ranker, as its checkpoints remember it."""

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

# Of one start, not of the run.
_NOT_REPEATED: Final = ("resume_from_checkpoint", "restart", "allow_changed", "allow_partial_resume")


def training_command(given: Mapping[str, Any], *more: str) -> str:
    """`train_ranker.py` with flags by name, as a manifest has them; `--dataset_code` first."""
    words = command_of(TRAIN_RANKER)
    for name, value in sorted(given.items(), key=lambda item: (item[0] != "dataset_code", item[0])):
        if name not in _NOT_REPEATED and value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return typed([*words, *more])


def named(experiment: Experiment) -> dict[str, str]:
    """The flags that say which experiment is meant."""
    root = str(experiment.root)
    at = {"experiment_root": root} if root != DataConfig.experiment_root else {}
    return {"dataset_code": experiment.dataset_code, **at}


def retrain_command(experiment: Experiment, **changes: Any) -> str:
    """That trains the ranker there again from the start, with all that it was given but for some changes."""
    folder = folder_of(experiment)
    manifest = newest_manifest(order_of_saves(folder)) or best_in(folder)
    given = dict(manifest.given) if manifest is not None else {}
    # Where it lies now, which need not be where it was trained.
    for place in ("experiment_root", "output_dir"):
        given.pop(place, None)
    at = {"output_dir": str(folder.path)} if folder.path.resolve() != _default_folder(experiment) else {}
    return training_command({**given, **named(experiment), **at, **changes}, "--restart")


def _default_folder(experiment: Experiment) -> Path:
    return replace(experiment, ranker_at=None).checkpoints.resolve()
