"""Which of a checkpoint's values a resume keeps: those that the command does not say otherwise.

The rule is "the first command with the new flags added": what was given then and is not given now stays, and so do the
defaults of that time. Left out is what belongs to the machine, and what follows from a flag that is given now.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

# Where things lie and what to do with them is this command's business alone.
_OF_THE_COMMAND: Final = frozenset(
    {
        "dataset_code",
        "data_root",
        "experiment_root",
        # Remembered with the data, as a place of this machine.
        "items_file",
        "output_dir",
        "logging_dir",
        "resume_from_checkpoint",
        "allow_partial_resume",
        "allow_changed",
        "restart",
        "backup_to",
        "train_retriever",
        # How the processes of this launch find each other.
        "ddp_backend",
        "ddp_timeout",
        "local_rank",
    }
)
# Defaults of the machine: kept only where the user had given them.
_OF_THE_MACHINE: Final = frozenset(
    {"use_cpu", "bf16", "fp16", "dataloader_pin_memory", "per_device_eval_batch_size", "torch_compile"}
)
# The pieces of a step depend on the machine too, as long as nobody chose them.
_BATCH: Final = frozenset({"per_device_train_batch_size", "gradient_accumulation_steps"})
# A value on the left is decided anew when one on the right is given now; True: even if the user had given it.
_FOLLOWS: Final[dict[str, tuple[frozenset[str], bool]]] = {
    "max_steps": (frozenset({"num_train_epochs"}), True),
    "per_device_train_batch_size": (frozenset({"gradient_accumulation_steps"}), False),
    "gradient_accumulation_steps": (frozenset({"per_device_train_batch_size"}), False),
    "eval_steps": (frozenset({"save_steps", "eval_strategy", "save_strategy"}), False),
    "eval_strategy": (frozenset({"save_strategy"}), False),
    "load_best_model_at_end": (frozenset({"save_strategy", "eval_strategy"}), False),
    "greater_is_better": (frozenset({"metric_for_best_model"}), True),
    # One setting under two names.
    "activation_checkpointing": (frozenset({"gradient_checkpointing"}), True),
    "gradient_checkpointing": (frozenset({"activation_checkpointing"}), True),
    "bf16": (frozenset({"fp16"}), True),
    "fp16": (frozenset({"bf16"}), True),
    "torch_compile_backend": (frozenset({"torch_compile"}), True),
    "torch_compile_mode": (frozenset({"torch_compile"}), True),
}
# Of the beginning alone: a flag that is given now changes nothing.
_SETTLED: Final = frozenset({"init_adapter"})
# What runs did before there was a flag for it.
_BEFORE_FLAGS: Final[dict[str, Any]] = {
    "hard_negatives": 0.0,
    "hard_negatives_at": "all",
    "candidate_order": "retriever",
    "title_similarity": False,
    # No more than the validation's: its weights were the final ones.
    "max_fusion_users": 1,
}


def kept_values(
    then: Mapping[str, Any], given_then: Iterable[str], given_now: Iterable[str], known: Iterable[str]
) -> dict[str, Any]:
    """Values of a checkpoint that become this command's defaults.

    Args:
        then: Every hyperparameter of the checkpoint, as plain values.
        given_then: Names that the user had given on the command line, over all sessions until then.
        given_now: Names on this command line.
        known: Names that this command has flags for.
    """
    old, new = set(given_then), set(given_now)
    then = {**_BEFORE_FLAGS, **then}
    names = (then.keys() & set(known)) - (new - _SETTLED) - _OF_THE_COMMAND
    names -= {name for name in _OF_THE_MACHINE if name not in old}
    if not _BATCH & (old | new):
        names -= _BATCH
    for name, (sources, even_if_given) in _FOLLOWS.items():
        if sources & new and (even_if_given or name not in old):
            names.discard(name)
    kept = {name: then[name] for name in sorted(names) if not name.endswith("_token")}
    # An earlier version took any such number for no limit.
    if int(kept.get("max_steps", -1)) < 1:
        kept.pop("max_steps", None)
    # Nested values are read from text; they are kept where the user had typed them.
    return {
        name: json.dumps(value) if isinstance(value, dict) else value
        for name, value in kept.items()
        if name in old or not isinstance(value, dict)
    }
