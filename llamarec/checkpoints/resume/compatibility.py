"""Values that a resume keeps, applies and refuses: a pure function of two sets of values."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from llamarec.checkpoints.storage.layout import TRAINING_ARGS
from llamarec.errors import CheckpointError, ConfigError

Decision = Literal["kept", "applied", "refused"]

# Values that belong to a machine or to one process, not to the training.
UNTRACKED: Final = frozenset(
    {
        "resume_from_checkpoint",
        "allow_changed",
        "allow_partial_resume",
        "max_failed_starts",
        "restart",
        "mirror",
        "output_dir",
        "experiment_root",
        "data_root",
        "logging_dir",
        "run_name",
        "local_rank",
        "hub_token",
        "deepspeed",
        "fsdp",
        "fsdp_config",
        "accelerator_config",
        "ddp_backend",
        "ddp_timeout",
        "log_level",
        "log_level_replica",
        "disable_tqdm",
        "do_train",
        "do_eval",
        "do_predict",
        "restore_callback_states_from_checkpoint",
        "ignore_data_skip",
        "train_batch_size",
        "eval_batch_size",
        "_n_gpu",
    }
)
# Effects of changes; a change that is not listed is simply applied.
_WHY: Final[dict[str, str]] = {
    "learning_rate": "from the next step on; the schedule continues",
    "num_train_epochs": "the rest of the schedule is stretched over the longer training, the rate does not jump",
    "max_steps": "the rest of the schedule is stretched, the rate does not jump",
    "per_device_train_batch_size": "the position is a number of samples: none is seen twice or missed",
    "gradient_accumulation_steps": "the position is a number of samples: none is seen twice or missed",
    "num_processes": "the position is a number of samples: none is seen twice or missed",
    "optim": "another kind of optimizer starts without moments",
    "own_optimizer": "another kind of optimizer starts without moments",
    "own_scheduler": "another schedule, from this step on",
    "lr_scheduler_type": "the new curve, at the share of the training that is done",
    "warmup_steps": "counts from the start of training",
    "dataloader_num_workers": "changes no sample",
    "early_stopping_patience": "the count of validations without a gain continues",
}
# These determine the order of the samples; changing one during training makes it another training.
_REFUSED: Final[dict[str, str]] = {
    "seed": "the order of the samples follows from it",
    "data_seed": "the order of the samples follows from it",
    "train_sampling_strategy": "the order of the samples follows from it",
}
SETS_ORDER: Final = frozenset(_REFUSED)
"""Hyperparameters from which the order of the samples follows."""
_IDENTIFIES: Final = "identifies the run"
_WIDTH: Final = 60


@dataclass(frozen=True)
class Change:
    """One hyperparameter or fingerprint that differs.

    Attributes:
        name: Name of the flag or fingerprint.
        old: Value in the checkpoint.
        new: Value in this process.
        decision: kept, applied or refused.
        why: Reason or effect, in one clause.
    """

    name: str
    old: object
    new: object
    decision: Decision
    why: str = ""


def compare_hyperparameters(
    old: Mapping[str, object],
    new: Mapping[str, object],
    *,
    kept: Mapping[str, object] | None = None,
    allowed: frozenset[str] = frozenset(),
) -> list[Change]:
    """The hyperparameters that differ, or were kept although this command has another default.

    Args:
        old: Values in the checkpoint.
        new: Values in this process, including those taken from the checkpoint.
        kept: Defaults that the checkpoint's values replaced, by name.
        allowed: Names that may change although they are otherwise refused; 'all' allows every change.
    """
    changes = []

    for name in sorted((old.keys() & new.keys()) - UNTRACKED):
        if old[name] != new[name]:
            refused = name in _REFUSED and not allowed & {name, "all"}
            why = _REFUSED[name] if refused else _WHY.get(name, "")
            changes.append(Change(name, old[name], new[name], "refused" if refused else "applied", why))
        elif kept and name in kept and kept[name] != old[name]:
            changes.append(Change(name, old[name], old[name], "kept", f"as in the checkpoint; default {kept[name]}"))
    return changes


def compare_fingerprints(
    old: Mapping[str, object], new: Mapping[str, object], *, allowed: frozenset[str] = frozenset()
) -> list[Change]:
    """The fingerprints that differ: refused, or applied if the user allows it."""
    names = old.keys() & new.keys()
    if "base_model" in names and ("lora" in old) != ("lora" in new):
        # Other weights are frozen then, so the base models cannot be compared.
        names = (names - {"base_model"}) | {"lora"}

    changes = []
    for name in sorted(names):
        before, after = (side.get(name, "none: all weights are trained") for side in (old, new))
        if before != after:
            allows = bool(allowed & {name, "all"})
            why = "allowed by --allow_changed" if allows else _IDENTIFIES
            changes.append(Change(name, before, after, "applied" if allows else "refused", why))
    return changes


def refuse_unknown(allowed: frozenset[str], fingerprints: Mapping[str, object]) -> None:
    """Raises for unknown names in --allow_changed: a mistyped one would silently allow nothing.

    Raises:
        ConfigError: a name is unknown; the message names the nearest one.
    """
    known = [*fingerprints, "base_model", "lora", *_REFUSED, "all", TRAINING_ARGS]
    for name in sorted(allowed - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"--allow_changed {name}: no value has this name",
            expected=", ".join(dict.fromkeys(known)),
            hint=f"--allow_changed {near[0]}" if near else None,
        )


@dataclass(frozen=True)
class FingerprintSources:
    """Sources of a program's fingerprints.

    Attributes:
        options: Options that determine each fingerprint, by its name.
        advice: How to restore the old value if no option has changed, by fingerprint.
        run_id: Run that the advice is for; it is not given for checkpoints of another run.
        measures: Fingerprints that must be equal for two validations to be comparable.
    """

    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    advice: Mapping[str, str] = field(default_factory=dict)
    run_id: str = ""
    measures: frozenset[str] = frozenset()

    def of(self, option: str) -> list[str]:
        """Fingerprints that an option determines."""
        return [name for name, options in self.options.items() if option in options]


def refuse(checkpoint: str, changes: list[Change], origins: FingerprintSources | None = None) -> None:
    """Raises if a change is refused.

    Args:
        checkpoint: Path of the checkpoint.
        changes: All differences.
        origins: Sources of the fingerprints.

    Raises:
        CheckpointError: a change is refused; the message names each refused value, old and new.
    """
    refused = [change for change in changes if change.decision == "refused"]
    if not refused:
        return

    names = ",".join(change.name for change in refused)
    ways = _ways_back(changes, refused, origins or FingerprintSources())
    ways.append("start over, with --restart instead of --resume_from_checkpoint or in another --output_dir")
    ways.append(f"if you know that it fits: --allow_changed {names}")

    raise CheckpointError(
        f"{checkpoint} belongs to a different run than this command",
        expected=[f"{change.name} {_shown(change.old, change.new)} ({change.why})" for change in refused],
        found=[f"{change.name} {_shown(change.new, change.old)}" for change in refused],
        hint=[ways[0], *(f"or {way}" for way in ways[1:])],
    )


def _ways_back(changes: list[Change], refused: list[Change], origins: FingerprintSources) -> list[str]:
    ways, names = [], {change.name for change in refused}
    # Fingerprints are of data, prompts and models: the flag to omit, if there is one, has another name.
    if any(change.why != _IDENTIFIES for change in refused):
        ways.append("omit the flag to keep the checkpoint's value")
    causes = [change for change in changes if change.decision == "applied" and names & {*origins.of(change.name)}]
    ways += [_back_to_old(one) for one in causes]
    explained = {name for one in causes for name in origins.of(one.name)}
    return ways + list(
        dict.fromkeys(origins.advice[name] for name in sorted(names - explained) if name in origins.advice)
    )


def _back_to_old(change: Change) -> str:
    before = f"--{change.name} {change.old}" if change.old not in (None, "") else f"without --{change.name}"
    return f"{before}, as in the checkpoint (here {change.new})"


def _shown(value: object, other: object) -> str:
    """The part of a value that differs from the other one, so that both can be told apart."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        value, other = (
            {name: item for name, item in a.items() if name not in b or b[name] != item}
            for a, b in ((value, other), (other, value))
        )
    text, beside = str(value), str(other)
    if len(text) <= _WIDTH:
        return text
    same = next((at for at, (a, b) in enumerate(zip(text, beside, strict=False)) if a != b), len(beside))
    start = max(min(same - _WIDTH // 2, len(text) - _WIDTH), 0)
    cut = text[start : start + _WIDTH]
    return f"{'...' if start else ''}{cut}{'...' if start + _WIDTH < len(text) else ''}"
