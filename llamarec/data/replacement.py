"""Prepared data that a model was trained on: replaced only with --prepare_again."""

from __future__ import annotations

from collections.abc import Sequence

from llamarec.command import TRAIN_RETRIEVER, command_of, flags_of, typed, with_flags
from llamarec.data.config import DataConfig
from llamarec.data.inputs import INTERACTIONS_FLAG, TITLES_FLAG
from llamarec.data.prepared import Manifest, Options, options_of
from llamarec.errors import ArtifactError
from llamarec.vocabulary import Experiment


def was_trained_on(experiment: Experiment) -> bool:
    """Whether a retriever or a ranker has left anything: other data would make it useless."""
    folders = (experiment.retriever, experiment.checkpoints)
    return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)


def check_same_options(config: DataConfig, now: Options, before: Manifest | None) -> None:
    """Checks that the options are those of the prepared set.

    Args:
        config: For the paths and the command that an error names.
        now: The options given, without paths.
        before: Manifest of a set that a model was trained on; None where there is none.

    Raises:
        ArtifactError: an option differs.
    """
    then = options_of(before) if before is not None else now
    changed = [name for name in now if now[name] != then.get(name)]
    if not changed:
        return

    raise ArtifactError(
        f"{config.experiment.data} was prepared with other options, and a model was trained on it",
        expected="these flags left out: the prepared data keeps its options",
        found=[f"--{name} {now[name]} (prepared with {then.get(name)})" for name in changed],
        hint=_ways_to_other_data(config, changed),
    )


def check_same_data(config: DataConfig, manifest: Manifest, before: Manifest | None) -> None:
    """Checks that the raw files gave the data that was prepared before.

    Args:
        config: For the paths and the command that an error names.
        manifest: What was made just now.
        before: Manifest of a set that a model was trained on; None where there is none.

    Raises:
        ArtifactError: the data differs.
    """
    if before is None or before["fingerprint"] == manifest["fingerprint"]:
        return

    inputs = manifest["inputs"]
    names = {INTERACTIONS_FLAG: config.dataset_code, TITLES_FLAG: config.items_file}
    changed = [names.get(name, name) for name in inputs if inputs[name] != before["inputs"].get(name)]
    keep = f"--dataset_code {config.name}" if config.is_own_table else "a --data_root without these files"

    raise ArtifactError(
        f"{config.experiment.data} was prepared from other raw files, and a model was trained on it",
        expected=f"the raw files it was prepared from ({before['num_interactions']:,} interactions)",
        found=f"{manifest['num_interactions']:,} interactions; changed: {', '.join(changed) or 'the raw files'}",
        hint=[f"to continue with the prepared data: {keep}", *_ways_to_other_data(config)],
    )


def _ways_to_other_data(config: DataConfig, changed: Sequence[str] = ()) -> list[str]:
    """Lines with commands; `changed` options are named even at their defaults, since others keep their values."""
    wanted = [word for name in changed for word in (f"--{name}", str(getattr(config, name)))]
    train = with_flags([*command_of(TRAIN_RETRIEVER), *flags_of(config)], wanted)

    return [
        f"to replace the prepared data and retrain: {typed([*train, '--prepare_again'])}",
        "to keep both: use another --experiment_root in this and all later commands",
    ]
