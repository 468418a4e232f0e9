"""A ranker's questions, wrong candidates and fusion are of one very retriever, which is not replaced unasked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamarec.assets import sha256_of
from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.files import read_json
from llamarec.retriever.again import METRICS_FILE, command_again, config_of
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.hard_negatives import num_folds_of
from llamarec.retriever.state import TrainingState
from llamarec.vocabulary import Experiment

# Of the options that end a training: with higher ones it goes on.
_LENGTHS = ("num_epochs", "patience")


def ranker_on(experiment: Experiment) -> dict[str, Any] | None:
    """ranker.json of a ranker that was trained on the retriever that lies there, if there is one."""
    described = read_json(experiment.ranker / "ranker.json")
    return (
        described
        if described and described.get("retriever_digest") and not is_of_another(described, experiment)
        else None
    )


def is_of_another(ranker: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether a ranker (its ranker.json) was trained on another retriever than the one that lies there."""
    then, weights = ranker.get("retriever_digest"), experiment.retriever_weights
    return bool(then) and not (weights.is_file() and sha256_of(weights) == then)


def refuse_other_questions(experiment: Experiment, data: PreparedData, config: RetrieverConfig) -> None:
    """Options that change what is written, though nothing is trained anew.

    Raises:
        ArtifactError: these would replace what a ranker was trained on.
    """
    then, now = config_of(experiment), config
    if then is None:
        return
    changed = []
    if then.excludes(data.has_repeats) != now.excludes(data.has_repeats):
        changed.append(f"exclude_history {then.exclude_history} -> {now.exclude_history}")
    # Of lists of an earlier version the options say nothing.
    num_folds, ranker = num_folds_of(experiment, data), ranker_on(experiment)
    if num_folds not in (None, now.hard_negative_folds) and ((ranker or {}).get("config") or {}).get("hard_negatives"):
        changed.append(f"hard_negative_folds {num_folds} -> {now.hard_negative_folds}")
    if ranker is not None and changed:
        raise _in_use(experiment, changed)


def refuse_to_replace(
    experiment: Experiment, config: RetrieverConfig, state: TrainingState, changed: list[str]
) -> None:
    """Before an earlier training is forgotten or goes on.

    Args:
        experiment: Where it lies.
        config: Of now.
        state: Of the earlier training.
        changed: How it differs; nothing where it goes on.

    Raises:
        ArtifactError: what lies there is its result, and a ranker was trained on it.
    """
    result = read_json(experiment.retriever / METRICS_FILE) or {}
    # A training that was begun since (--restart) may go on: that its result replaces what is there was asked for.
    marks = {"num_epochs": state.epoch, "seconds": state.seconds}
    is_result = all(result.get(name, mark) == mark for name, mark in marks.items())
    if is_result and ranker_on(experiment) is not None:
        raise _in_use(experiment, changed or _longer(config_of(experiment), config))


def _longer(then: RetrieverConfig | None, now: RetrieverConfig) -> list[str]:
    changed = [
        f"{name} {getattr(then, name)} -> {getattr(now, name)}"
        for name in _LENGTHS
        if then is not None and getattr(then, name) != getattr(now, name)
    ]
    return changed or ["further epochs"]


def _in_use(experiment: Experiment, changed: list[str]) -> ArtifactError:
    return ArtifactError(
        f"{experiment.retriever}: a ranker was trained on this retriever, and other options would replace it",
        found=f"{'; '.join(changed)}; the ranker in {experiment.ranker}",
        hint=f"as it was: {command_again(experiment)}\n"
        "            or another --experiment_root for a second retriever,\n"
        "            or --restart, and the ranker is to be trained anew",
    )
