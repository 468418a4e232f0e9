"""Which of a checkpoint's values become the defaults of a resume.

A resume means the first command plus the new flags: what was given then and is not given now stays, and so do the
defaults of that time. Values of the machine are left out, and values that follow from a flag given now.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

# Paths, and what to do with existing files: each command decides these itself.
_OF_THE_COMMAND: Final = frozenset(
    {
        "dataset_code",
        "data_root",
        "experiment_root",
        # Prepared data remember it, as a path of this machine.
        "items_file",
        "output_dir",
        "logging_dir",
        "resume_from_checkpoint",
        "allow_partial_resume",
        "max_failed_starts",
        "allow_changed",
        "restart",
        "backup_to",
        "mirror",
        "train_retriever",
        # Connections between the processes of one launch.
        "ddp_backend",
        "ddp_timeout",
        "local_rank",
        # How this launch shares the model out.
        "deepspeed",
        "fsdp",
        "fsdp_config",
    }
)
# Defaults that depend on the machine: kept only if the user had given them.
_OF_THE_MACHINE: Final = frozenset(
    {"use_cpu", "bf16", "fp16", "dataloader_pin_memory", "per_device_eval_batch_size", "torch_compile"}
)
# The micro-batches of a step depend on the machine too, unless the user had chosen them.
_BATCH: Final = frozenset({"per_device_train_batch_size", "gradient_accumulation_steps"})
# A value on the left is not kept when a flag on the right is given now; True: even if the user had given the value.
_FOLLOWS: Final[dict[str, tuple[frozenset[str], bool]]] = {
    "max_steps": (frozenset({"num_train_epochs"}), True),
    "per_device_train_batch_size": (frozenset({"gradient_accumulation_steps"}), False),
    "gradient_accumulation_steps": (frozenset({"per_device_train_batch_size"}), False),
    "eval_steps": (frozenset({"save_steps", "eval_strategy", "save_strategy"}), False),
    "eval_strategy": (frozenset({"save_strategy"}), False),
    "load_best_model_at_end": (frozenset({"save_strategy", "eval_strategy"}), False),
    "greater_is_better": (frozenset({"metric_for_best_model"}), True),
    # Two names of one setting.
    "activation_checkpointing": (frozenset({"gradient_checkpointing"}), True),
    "gradient_checkpointing": (frozenset({"activation_checkpointing"}), True),
    "bf16": (frozenset({"fp16"}), True),
    "fp16": (frozenset({"bf16"}), True),
    "torch_compile_backend": (frozenset({"torch_compile"}), True),
    "torch_compile_mode": (frozenset({"torch_compile"}), True),
}
# Decided at the start of a run: a flag given now changes nothing.
_SETTLED: Final = frozenset({"init_adapter"})
# Behaviour of runs from before these flags existed.
_BEFORE_FLAGS: Final[dict[str, object]] = {
    "readout": "letters",
    "hard_negatives": 0.0,
    "hard_negatives_at": "all",
    "candidate_order": "retriever",
    "title_similarity": False,
    # The weights fitted by the validation were the final ones.
    "max_fusion_users": 1,
}


def kept_values(
    then: Mapping[str, object], given_then: Iterable[str], given_now: Iterable[str], known: Iterable[str]
) -> dict[str, object]:
    """Values of a checkpoint that become this command's defaults.

    Args:
        then: Every hyperparameter of the checkpoint, as plain values.
        given_then: Names that the user had given on a command line of the run, in any session before.
        given_now: Names on this command line.
        known: Names of this command's flags.
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
    # An earlier version read any number below 1 as no limit.
    if _is_no_limit(kept.get("max_steps", -1)):
        kept.pop("max_steps", None)

    # The parser reads nested values from text. They are kept if the user had typed them.
    return {
        name: json.dumps(value) if isinstance(value, dict) else value
        for name, value in kept.items()
        if name in old or not isinstance(value, dict)
    }


def _is_no_limit(max_steps: object) -> bool:
    return isinstance(max_steps, int | float | str) and int(max_steps) < 1
