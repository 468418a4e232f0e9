"""The options a retriever was trained with, and the command that makes its files again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llamarec.command import TRAIN_RETRIEVER, command_of, flags_of, typed
from llamarec.data.config import DataConfig
from llamarec.errors import ArtifactError, ConfigError
from llamarec.files import stored
from llamarec.retriever.config import BEFORE, RetrieverConfig, defaults_for
from llamarec.retriever.published import intact_metrics
from llamarec.retriever.state import load_state
from llamarec.vocabulary import METRICS_FILE, Experiment


def trained_config(experiment: Experiment) -> RetrieverConfig | None:
    """Options of the trained retriever; None where there is none, or it is of a later version."""
    return stored_config(intact_metrics(experiment).get("config"))


def stored_config(options: object) -> RetrieverConfig | None:
    """Options from JSON; None where there are none, or they do not fit."""
    if not options or not isinstance(options, Mapping):
        return None

    try:
        return stored({**BEFORE, **options}, RetrieverConfig, METRICS_FILE)
    except (ConfigError, ArtifactError):
        return None


def _unfinished_config(experiment: Experiment) -> RetrieverConfig | None:
    """Options of an unfinished training."""
    try:
        state = load_state(experiment.retriever)
    except ArtifactError:
        return None
    return stored_config(state.options) if state is not None else None


def rebuild_command(
    experiment: Experiment, data_flags: Sequence[str] = (), *, then: RetrieverConfig | None = None, **changes: int
) -> str:
    """The command of `train_retriever.py` with the retriever's own options, which trains nothing twice.

    Args:
        experiment: Paths of the run.
        data_flags: Flags of the data set; default: its code.
        then: Options of an earlier retriever; default: those of the present one.
        changes: Options to change.
    """
    flags = data_flags or flags_of(DataConfig(experiment.dataset_code, experiment_root=str(experiment.root)))
    defaults = RetrieverConfig(**defaults_for(experiment.dataset_code))
    config = then or trained_config(experiment) or _unfinished_config(experiment) or defaults

    wanted = replace(config, restart=False, **changes)  # type: ignore[arg-type]  # top_k, hard_negative_folds
    return typed([*command_of(TRAIN_RETRIEVER), *flags, *flags_of(wanted, defaults)])
