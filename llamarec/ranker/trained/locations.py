"""Paths of a run of the ranker: its results, its checkpoints, and the data it was trained on."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.command import TRAIN_RANKER, program_of
from llamarec.data.config import DataConfig
from llamarec.errors import ArtifactError, ConfigError
from llamarec.files import read_json
from llamarec.vocabulary import CHECKPOINTS, DESCRIPTION, Experiment, RankerDescription


def experiment_at(folder: Path) -> Experiment | None:
    """The experiment whose ranker results are in a folder; None if there are none."""
    folder = folder.resolve()
    ranker = read_json(folder / DESCRIPTION, RankerDescription)
    if ranker is None:
        return None
    code = str(ranker.get("dataset_code") or folder.name)

    # An experiment that was moved as a whole has its data beside it; otherwise the recorded path holds.
    beside, then = folder.parent.parent, Path(str(ranker.get("prepared_data") or "")).parent.parent
    root = beside if (beside / "data" / code).is_dir() else then
    experiment = Experiment(root, code)
    return experiment if experiment.ranker == folder else replace(experiment, ranker_at=folder)


def experiment_of(folder: RunFolder) -> Experiment | None:
    """The experiment these checkpoints belong to; None for a user's own Trainer."""
    path = folder.path.resolve()
    found = experiment_at(path.parent) if path.name == CHECKPOINTS else experiment_at(path)
    experiment = Experiment(path.parent.parent.parent, path.parent.name)
    is_default = path.parent.parent.name == "llm" and experiment.checkpoints == path
    return found or (experiment if is_default else None)


def check_output_dir(experiment: Experiment, output_dir: Path) -> None:
    """Refuses a folder whose results belong to a run with other checkpoints, before anything is written.

    Raises:
        ConfigError: the results would be replaced; names both folders.
    """
    ranker = read_json(experiment.ranker / DESCRIPTION, RankerDescription) or {}
    theirs = folder_of(experiment).path
    if not ranker or theirs.resolve() == output_dir.resolve() or not RunFolder(theirs).steps():
        return
    raise ConfigError(
        f"--output_dir {output_dir}: its results would replace those of another run, in {experiment.ranker}",
        found=f"checkpoints of that run in {theirs}",
        hint=[
            f"--output_dir {theirs} continues that run.",
            "Another --output_dir or --experiment_root starts a new one.",
        ],
    )


def folder_of(experiment: Experiment) -> RunFolder:
    """The folder of checkpoints of the ranker's last run."""
    ranker = read_json(experiment.ranker / DESCRIPTION, RankerDescription) or {}
    then = Path(str(ranker.get("checkpoints") or experiment.checkpoints))
    # Usually they are in the folder of the results or are that folder, also after it was moved or copied.
    beside = experiment.checkpoints if then.name == CHECKPOINTS else experiment.ranker
    return RunFolder(beside if beside.is_dir() or not then.is_dir() else then)


def codes_under(root: Path) -> list[str]:
    """Codes of the data sets with a run of the ranker in an experiment root."""
    return sorted(path.parent.name for path in root.glob(f"llm/*/{DESCRIPTION}"))


def _code_of(run: str | Path) -> str:
    """The code of a data set, or of the user's table of which this is the path; any other path as it is."""
    try:
        return DataConfig(str(run)).name
    except ConfigError:
        return str(run)


def find_experiment(run: str | Path, root: Path) -> Experiment:
    """The experiment that a data set code or a folder means.

    Raises:
        ArtifactError: there is no such run; lists those that exist.
    """
    # The user's own table is named by its path in both trainings.
    code = _code_of(run)
    by_code, by_path = Experiment(root, code).ranker, Path(run)
    # Of a path, its last folder may have the name of another run.
    for folder in (by_path, by_code) if len(by_path.parts) > 1 else (by_code, by_path):
        found = experiment_at(folder)
        if found is not None:
            return found
    codes = codes_under(root)
    near = difflib.get_close_matches(code, codes, n=1)
    raise ArtifactError(
        f"{run}: there is no run of the ranker",
        expected="a data set code, or a folder with ranker.json",
        found=f"under {root}: {', '.join(codes) or 'none'}",
        hint=f"{near[0]}?"
        if near
        else f"one of those, another --experiment_root, or train one ({program_of(TRAIN_RANKER)})",
    )
