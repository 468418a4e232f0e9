"""A ranker's questions, wrong candidates and fusion are of one very retriever, which is not replaced unasked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from llamarec.checkpoints.storage.durable import sha256_of
from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.files import read_json
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.hard_negatives import num_folds_of
from llamarec.retriever.rebuild_command import rebuild_command, stored_config, trained_config
from llamarec.retriever.state import TrainingState
from llamarec.vocabulary import DESCRIPTION, Experiment

# Of the options that end a training: with higher ones it goes on.
_LENGTHS = ("num_epochs", "patience")


class DependentRanker(NamedTuple):
    """One that was trained on the retriever that lies there: its folder, and the content of its ranker.json."""

    folder: Path
    described: Mapping[str, Any]

    def retriever(self, experiment: Experiment) -> RetrieverConfig | None:
        """The retriever's options when this was trained on it, as far as anything says so."""
        return stored_config(self.described.get("retriever_config")) or trained_config(experiment)

    def option(self, name: str) -> Any:
        """Of the ranker's own; None where it does not say."""
        return (self.described.get("config") or {}).get(name)


def dependent_rankers(experiment: Experiment) -> list[DependentRanker]:
    """All under the experiment's root, those with an output folder of their own included."""
    weights = experiment.retriever_weights
    digest = sha256_of(weights) if weights.is_file() else ""
    places = [path.parent for path in sorted((experiment.root / "llm").glob(f"*/{DESCRIPTION}"))]
    found = [DependentRanker(place, read_json(place / DESCRIPTION) or {}) for place in places]
    return [
        ranker
        for ranker in found
        # In a folder of the data set's name it is of that data set, whatever it says.
        if ranker.described.get("dataset_code", ranker.folder.name) == experiment.dataset_code
        and ranker.described.get("retriever_digest") == digest != ""
    ]


def has_other_retriever(ranker: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether a ranker (its ranker.json) was trained on another retriever than the one that lies there."""
    then, weights = ranker.get("retriever_digest"), experiment.retriever_weights
    return bool(then) and not (weights.is_file() and sha256_of(weights) == then)


def is_outdated(ranker: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether a ranker (its ranker.json) is of other data, of another retriever, or was asked other questions."""
    result = read_json(experiment.retriever_metrics) or {}
    if result.get("data_fingerprint") != ranker.get("data_fingerprint") or has_other_retriever(ranker, experiment):
        return True
    then, now = stored_config(ranker.get("retriever_config")), stored_config(result.get("config"))
    has_lists = bool((ranker.get("config") or {}).get("hard_negatives"))
    return then is not None and now is not None and bool(changed_prompt_options(then, now, has_lists=has_lists))


def changed_prompt_options(then: RetrieverConfig, now: RetrieverConfig, *, has_lists: bool) -> list[str]:
    """Options that change what a ranker is asked, though nothing is trained anew: `name old -> new`."""
    # Items of equal scores stand in another order in longer lists.
    names = ["exclude_history", "top_k", *(["hard_negative_folds"] if has_lists else [])]
    return [f"{name} {getattr(then, name)} -> {getattr(now, name)}" for name in names if _differs(name, then, now)]


def _differs(name: str, then: RetrieverConfig, now: RetrieverConfig) -> bool:
    return bool(getattr(then, name) != getattr(now, name))


def check_prompt_options(
    experiment: Experiment, data: PreparedData, config: RetrieverConfig, state: TrainingState
) -> None:
    """Options that change what is written, though nothing is trained anew.

    Args:
        experiment: Where it lies.
        data: Prepared.
        config: Of now.
        state: Of the training that these options go on with.

    Raises:
        ArtifactError: these would replace what a ranker was trained on.
    """
    if not is_result(experiment, state):
        return
    for ranker in dependent_rankers(experiment):
        changed = _other_questions(ranker, experiment, data, config)
        if changed:
            raise _in_use(experiment, ranker, changed)


def _other_questions(
    ranker: DependentRanker, experiment: Experiment, data: PreparedData, config: RetrieverConfig
) -> list[str]:
    then = ranker.retriever(experiment)
    if then is None:
        return []
    if not ranker.described.get("retriever_config"):
        # Options are of the last run of train_retriever.py, lists may be older.
        then = replace(then, hard_negative_folds=num_folds_of(experiment, data) or then.hard_negative_folds)
    return changed_prompt_options(then, config, has_lists=bool(ranker.option("hard_negatives")))


def check_can_replace(
    experiment: Experiment,
    data: PreparedData,
    config: RetrieverConfig,
    state: TrainingState | None,
    changed: list[str],
) -> None:
    """Before a training begins where one may lie already, or an earlier one goes on.

    Args:
        experiment: Where.
        data: Prepared.
        config: Of now.
        state: Of the earlier training; None: it cannot go on, its state is not there.
        changed: How it differs; nothing where it goes on.

    Raises:
        ArtifactError: what lies there would be replaced, and a ranker was trained on it.
    """
    if state is not None and not changed and not is_result(experiment, state):
        # Begun since (--restart): that its result replaces what is there was asked for.
        return
    for ranker in dependent_rankers(experiment):
        longer = _longer(trained_config(experiment), config) if state is not None else ["its training state is gone"]
        others = _other_questions(ranker, experiment, data, config)
        raise _in_use(experiment, ranker, [*(changed or longer), *others])


def is_result(experiment: Experiment, state: TrainingState) -> bool:
    """Whether what lies there is the outcome of this training as far as it is."""
    result = read_json(experiment.retriever_metrics) or {}
    marks = {"num_epochs": state.epoch, "seconds": state.seconds}
    return all(result.get(name, mark) == mark for name, mark in marks.items())


def _longer(then: RetrieverConfig | None, now: RetrieverConfig) -> list[str]:
    changed = [
        f"{name} {getattr(then, name)} -> {getattr(now, name)}"
        for name in _LENGTHS
        if then is not None and _differs(name, then, now)
    ]
    return changed or ["further epochs"]


def _all_of(experiment: Experiment, first: DependentRanker) -> str:
    others = [str(one.folder) for one in dependent_rankers(experiment) if one.folder != first.folder]
    return ", ".join([str(first.folder), *others])


def _in_use(experiment: Experiment, ranker: DependentRanker, changed: list[str]) -> ArtifactError:
    return ArtifactError(
        f"{experiment.retriever}: a ranker was trained on this retriever, and this would replace it",
        found=f"{'; '.join(changed)}; the ranker in {_all_of(experiment, ranker)}",
        hint=f"as it was: {rebuild_command(experiment, then=ranker.retriever(experiment))}\n"
        "            or another --experiment_root for a second retriever,\n"
        "            or --restart, and the ranker is to be trained anew",
    )
