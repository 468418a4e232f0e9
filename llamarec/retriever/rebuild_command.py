"""The options that a retriever was trained with, and the command that makes its files again with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llamarec.command import flags_of, options_from, typed
from llamarec.data.config import DataConfig
from llamarec.errors import ArtifactError, ConfigError
from llamarec.files import read_json
from llamarec.retriever.config import RetrieverConfig, defaults_for
from llamarec.retriever.state import load_state
from llamarec.vocabulary import Experiment


def trained_config(experiment: Experiment) -> RetrieverConfig | None:
    """Of the retriever that lies there; None where there is none, or of a later version."""
    return stored_config((read_json(experiment.retriever_metrics) or {}).get("config"))


def stored_config(stored: Any) -> RetrieverConfig | None:
    """From stored options; None where there are none, or they are no such options."""
    try:
        # Before there were folds, lists were the retriever's own.
        return options_from(RetrieverConfig, {"hard_negative_folds": 1, **stored}) if stored else None
    except (ConfigError, TypeError):
        return None


def _unfinished(experiment: Experiment) -> RetrieverConfig | None:
    """Of a training that has not come to its end."""
    try:
        state = load_state(experiment.retriever)
    except ArtifactError:
        return None
    return stored_config(state.options) if state is not None else None


def rebuild_command(
    experiment: Experiment, data_flags: Sequence[str] = (), *, then: RetrieverConfig | None = None, **changes: Any
) -> str:
    """`train_retriever.py` with the flags that the retriever there had: what was trained is not trained again.

    Args:
        experiment: Where it lies.
        data_flags: Of the data set; its code, unless given.
        then: Options of another one that lay there.
        changes: Options that are to be others.
    """
    flags = data_flags or flags_of(DataConfig(experiment.dataset_code, experiment_root=str(experiment.root)))
    defaults = RetrieverConfig(**defaults_for(experiment.dataset_code))
    wanted = replace(
        then or trained_config(experiment) or _unfinished(experiment) or defaults, restart=False, **changes
    )
    return typed(["python", "train_retriever.py", *flags, *flags_of(wanted, defaults)])
