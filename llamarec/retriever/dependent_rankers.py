"""Rankers that depend on a retriever: its lists make their prompts, so it is replaced only on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.files import read_json
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.hard_negatives import num_folds_of
from llamarec.retriever.published import DIGEST, intact_metrics, weights_digest
from llamarec.retriever.rebuild_command import rebuild_command, stored_config, trained_config
from llamarec.retriever.state import TrainingState
from llamarec.vocabulary import DESCRIPTION, Experiment, RankerDescription

# Options that decide when a training ends: with larger ones it continues.
_LENGTHS = ("num_epochs", "patience")


class DependentRanker(NamedTuple):
    """A ranker trained on the present retriever: its folder, and the content of its ranker.json."""

    folder: Path
    described: Mapping[str, object]

    def retriever_config(self, experiment: Experiment) -> RetrieverConfig | None:
        """The retriever's options when this ranker was trained, as far as they are recorded."""
        return stored_config(self.described.get("retriever_config")) or trained_config(experiment)

    @property
    def has_lists(self) -> bool:
        """Whether it draws wrong candidates from the retriever's lists."""
        return _has_lists(self.described)


def dependent_rankers(experiment: Experiment) -> list[DependentRanker]:
    """All rankers under the experiment's root that were trained on its retriever."""
    digest = weights_digest(experiment)
    folders = [path.parent for path in sorted((experiment.root / "llm").glob(f"*/{DESCRIPTION}"))]
    rankers = [DependentRanker(folder, read_json(folder / DESCRIPTION, RankerDescription) or {}) for folder in folders]

    return [
        ranker
        for ranker in rankers
        # Older descriptions do not name their data set: it is the folder's name.
        if ranker.described.get("dataset_code", ranker.folder.name) == experiment.dataset_code
        and ranker.described.get(DIGEST) == digest != ""
    ]


def has_other_retriever(ranker: Mapping[str, object], experiment: Experiment) -> bool:
    """Whether a ranker (its ranker.json) was trained on another retriever than the present one."""
    then = ranker.get(DIGEST)
    return bool(then) and weights_digest(experiment) != then


def is_outdated(ranker: Mapping[str, object], experiment: Experiment) -> bool:
    """Whether a ranker (its ranker.json) was trained on other data, another retriever, or other prompts."""
    result = intact_metrics(experiment)
    has_other_data = result.get("data_fingerprint") != ranker.get("data_fingerprint")
    if has_other_data or has_other_retriever(ranker, experiment):
        return True

    then, now = stored_config(ranker.get("retriever_config")), stored_config(result.get("config"))
    return then is not None and now is not None and bool(_prompt_changes(then, now, has_lists=_has_lists(ranker)))


def check_prompt_options(
    experiment: Experiment, data: PreparedData, config: RetrieverConfig, state: TrainingState
) -> None:
    """Checks that a finished retriever's files are not written again with other prompts for a ranker.

    Args:
        experiment: Paths of the run.
        data: Prepared data.
        config: Options of this run.
        state: State of the training that this run continues.

    Raises:
        ArtifactError: a ranker was trained on the files that would be replaced.
    """
    if not is_result(experiment, state):
        return

    for ranker in dependent_rankers(experiment):
        changes = _changes_for(ranker, experiment, data, config)
        if changes:
            raise _in_use(experiment, ranker, changes)


def check_can_replace(
    experiment: Experiment,
    data: PreparedData,
    config: RetrieverConfig,
    state: TrainingState | None,
    changes: Sequence[str],
) -> None:
    """Checks that a training may start, or an earlier one continue, although its result replaces files.

    Args:
        experiment: Paths of the run.
        data: Prepared data.
        config: Options of this run.
        state: State of the earlier training; None where there is none.
        changes: Differences between the earlier options and these; empty where the training continues.

    Raises:
        ArtifactError: a ranker was trained on the files that would be replaced.
    """
    if state is not None and not changes and not is_result(experiment, state):
        # Started with --restart before: the user asked for the replacement then.
        return

    for ranker in dependent_rankers(experiment):
        longer = _longer(trained_config(experiment), config) if state is not None else ["its training state is gone"]
        others = _changes_for(ranker, experiment, data, config)
        raise _in_use(experiment, ranker, [*(changes or longer), *others])


def is_result(experiment: Experiment, state: TrainingState) -> bool:
    """Whether the retriever's files are the result of this training as it stands."""
    result = intact_metrics(experiment)
    marks = {"num_epochs": state.epoch, "seconds": state.seconds}
    return all(result.get(name, mark) == mark for name, mark in marks.items())


def _has_lists(ranker: Mapping[str, object]) -> bool:
    config = ranker.get("config")
    return isinstance(config, Mapping) and bool(config.get("hard_negatives"))


def _changes_for(
    ranker: DependentRanker, experiment: Experiment, data: PreparedData, config: RetrieverConfig
) -> list[str]:
    """Options that would change this ranker's prompts."""
    then = ranker.retriever_config(experiment)
    if then is None:
        return []

    if not ranker.described.get("retriever_config"):
        # These options are of the last run of train_retriever.py; the lists may be older.
        then = replace(then, hard_negative_folds=num_folds_of(experiment, data) or then.hard_negative_folds)
    changes = _prompt_changes(then, config, has_lists=ranker.has_lists)
    if ("test" in then.refits(data.has_cut)) != ("test" in config.refits(data.has_cut)):
        changes.append(f"refit {then.refit} -> {config.refit}")
    return changes


def _prompt_changes(then: RetrieverConfig, now: RetrieverConfig, *, has_lists: bool) -> list[str]:
    # top_k as well: in longer lists, items of equal scores stand in another order.
    names = ["exclude_history", "top_k", "experts", "num_members", *(["hard_negative_folds"] if has_lists else [])]
    return _changes(names, then, now)


def _longer(then: RetrieverConfig | None, now: RetrieverConfig) -> list[str]:
    changes = _changes(_LENGTHS, then, now) if then is not None else []
    return changes or ["further epochs"]


def _changes(names: Sequence[str], then: RetrieverConfig, now: RetrieverConfig) -> list[str]:
    """`name old -> new` for each option that differs."""
    pairs = [(name, getattr(then, name), getattr(now, name)) for name in names]
    return [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]


def _in_use(experiment: Experiment, ranker: DependentRanker, changes: Sequence[str]) -> ArtifactError:
    others = [str(one.folder) for one in dependent_rankers(experiment) if one.folder != ranker.folder]
    folders = ", ".join([str(ranker.folder), *others])
    keep = rebuild_command(experiment, then=ranker.retriever_config(experiment))

    return ArtifactError(
        f"{experiment.retriever}: a ranker was trained on this retriever, which this run would replace",
        found=f"{'; '.join(changes)}; used by the ranker in {folders}",
        hint=[
            f"to keep the retriever as the ranker needs it: {keep}",
            "to have a second retriever: use another --experiment_root",
            "to replace it: add --restart, then retrain the ranker",
        ],
    )
