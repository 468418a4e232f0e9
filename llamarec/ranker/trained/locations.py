"""Where a run of the ranker lies: its results, its checkpoints, and the data that it was made from."""

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


def experiment_at(place: Path) -> Experiment | None:
    """The ranker whose results lie in a folder; None where none do."""
    place = place.resolve()
    ranker = read_json(place / DESCRIPTION, RankerDescription)
    if ranker is None:
        return None
    code = str(ranker.get("dataset_code") or place.name)
    # Moved as a whole, an experiment has its data beside it; otherwise they are where they were.
    beside, then = place.parent.parent, Path(str(ranker.get("prepared_data") or "")).parent.parent
    root = beside if (beside / "data" / code).is_dir() else then
    experiment = Experiment(root, code)
    return experiment if experiment.ranker == place else replace(experiment, ranker_at=place)


def experiment_of(folder: RunFolder) -> Experiment | None:
    """Of whose ranker these checkpoints are; None for a Trainer of one's own."""
    path = folder.path.resolve()
    found = experiment_at(path.parent) if path.name == CHECKPOINTS else experiment_at(path)
    experiment = Experiment(path.parent.parent.parent, path.parent.name)
    is_place = path.parent.parent.name == "llm" and experiment.checkpoints == path
    return found or (experiment if is_place else None)


def check_output_dir(experiment: Experiment, output_dir: Path) -> None:
    """Before anything is written: where results would lie, those of a run with other checkpoints may lie already.

    Raises:
        ConfigError: names both folders.
    """
    ranker = read_json(experiment.ranker / DESCRIPTION, RankerDescription) or {}
    theirs = folder_of(experiment).path
    if not ranker or theirs.resolve() == output_dir.resolve() or not RunFolder(theirs).steps():
        return
    raise ConfigError(
        f"--output_dir {output_dir}: its results would replace those of another run, in {experiment.ranker}",
        found=f"checkpoints of that run in {theirs}",
        hint=f"--output_dir {theirs} is that run; for a new one another folder, or another --experiment_root",
    )


def folder_of(experiment: Experiment) -> RunFolder:
    """Where the ranker's last run put its checkpoints."""
    ranker = read_json(experiment.ranker / DESCRIPTION, RankerDescription) or {}
    then = Path(str(ranker.get("checkpoints") or experiment.checkpoints))
    # As a rule they lie in the folder of the results or are that folder, also where it was moved or copied to.
    beside = experiment.checkpoints if then.name == CHECKPOINTS else experiment.ranker
    return RunFolder(beside if beside.is_dir() or not then.is_dir() else then)


def codes_under(root: Path) -> list[str]:
    """Of the data sets that have a run of the ranker in an experiment root."""
    return sorted(path.parent.name for path in root.glob(f"llm/*/{DESCRIPTION}"))


def find_experiment(run: str | Path, root: Path) -> Experiment:
    """The ranker that a data set code, or else a folder, means.

    Raises:
        ArtifactError: there is no such run; says which there are.
    """
    # A table of one's own is called by its path in both trainings.
    code = DataConfig(str(run)).name
    for place in (Experiment(root, code).ranker, Path(run)):
        found = experiment_at(place)
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
