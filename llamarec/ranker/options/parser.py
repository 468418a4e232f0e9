"""The ranker's parser: `HfArgumentParser` over four dataclasses, with grouped help and clear errors.

Its flags are stored in `flags.json`, from which help is shown before this module is loaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import transformers
from transformers import HfArgumentParser, TrainingArguments

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.storage.discovery import LATEST
from llamarec.command import TRAIN_RANKER, command_of, typed
from llamarec.data.config import DataConfig
from llamarec.errors import ConfigError
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.options.flags import PROGRAM, Flag, Flags

# The Trainer's arguments that people set, most wanted first; the others are in --help_all.
_TRAINER_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "Training": (
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "warmup_steps",
        "lr_scheduler_type",
        "weight_decay",
        "optim",
        "max_grad_norm",
        "seed",
    ),
    "Checkpoints and resume": (
        "resume_from_checkpoint",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "save_seconds",
        "adapter_format",
        "allow_partial_resume",
        "max_failed_starts",
        "allow_changed",
        "restart",
        "read_back",
        "mirror",
        "backup_to",
        "backup_every",
        "load_best_model_at_end",
        "metric_for_best_model",
        "output_dir",
    ),
    "Validation": ("eval_strategy", "eval_steps", "per_device_eval_batch_size", "eval_on_start"),
    "Hardware and memory": (
        "bf16",
        "fp16",
        "activation_checkpointing",
        "gradient_checkpointing",
        "torch_compile",
        "use_cpu",
        "dataloader_num_workers",
    ),
    "Logging": ("logging_steps", "report_to", "run_name", "disable_tqdm"),
}
# Values of the recipe that depend on no other flag (LlamaRec, section 4.1), and what our model needs from the Trainer.
RECIPE: Final[dict[str, object]] = {
    "num_train_epochs": 1.0,
    "learning_rate": 1e-4,
    "save_steps": 500,
    "save_total_limit": 3,
    "save_seconds": 900.0,
    "adapter_format": "bin",
    "logging_steps": 10,
    "report_to": "tensorboard",
    "eval_strategy": "steps",
    "load_best_model_at_end": True,
    "metric_for_best_model": "overall_ndcg@10",
    "remove_unused_columns": False,
    "label_names": ["labels"],
    # A resume must not lose the count of early stopping.
    "restore_callback_states_from_checkpoint": True,
}
_OWN_HELP: Final = {
    "resume_from_checkpoint": "Resume from this checkpoint folder; without a value, or with 'latest', from the newest "
    "valid one (from the start if there is none yet); with 'best', from the best. Flags that are not given keep the "
    "checkpoint's values.",
    "output_dir": "Folder for checkpoint-{step}/ and the best adapter (default: "
    "{experiment_root}/llm/{dataset_code}/checkpoints).",
    "per_device_train_batch_size": "Samples per device in one forward pass; times --gradient_accumulation_steps this "
    "is a step of 16 samples for MovieLens or --readout items, else 12 (default: the fastest that fits; see: llamarec "
    "plan).",
    "per_device_eval_batch_size": "Prompts per device in one forward pass of evaluation (default: 16; on a CPU 32, "
    "with --readout items 128, in bfloat16 4).",
    "load_best_model_at_end": "Test with the best adapter, and keep it in --output_dir itself (default: True).",
    "metric_for_best_model": "Metric that chooses the best adapter: overall_ or subset_ (letters alone) or fused_ "
    "(final order), then recall@1, recall@10, ndcg@10 or mrr@10; or loss (default: overall_ndcg@10; "
    "with --readout items loss).",
    "save_total_limit": "Checkpoints kept (default: 3).",
    "max_steps": "Stop after this many steps, whatever --num_train_epochs says (default: -1, no limit).",
    "gradient_accumulation_steps": "Forward and backward passes per step (default: see --per_device_train_batch_size).",
    "eval_steps": "Steps between validations (default: about 100, a divisor of --save_steps).",
    "warmup_steps": "Steps of linear warm-up (default: 100, at most a tenth of --max_steps).",
    "use_cpu": "Train on the CPU (default: if there is nothing faster).",
    "bf16": "Compute in bfloat16 (default: if the hardware has it).",
    "activation_checkpointing": "Recompute activations to save memory (default: if memory is short).",
    "gradient_checkpointing": "Former name of --activation_checkpointing.",
}


class RankerArgumentParser(HfArgumentParser):
    """`HfArgumentParser` with grouped help, without abbreviations, and with errors in the form of ours."""

    def __init__(self) -> None:
        types: Any = (DataConfig, RankerConfig, TrainingArguments, CheckpointConfig)
        super().__init__(types, prog=PROGRAM, allow_abbrev=False)
        self.add_argument("--help_all", action="store_true", help="Show every argument of the Trainer too.")
        self.set_defaults(**RECIPE)

        # The flag may stand without a value.
        resume = self._option("resume_from_checkpoint")
        resume.nargs, resume.const, resume.metavar = "?", LATEST, "CHECKPOINT"

    def error(self, message: str) -> NoReturn:
        """Raises our own error, which has the usual form and exit code."""
        raise ConfigError(f"{PROGRAM}: {message}", hint=typed([*command_of(TRAIN_RANKER), "--help"]))

    def format_help(self) -> str:
        """The text of --help, as `flags.json` has it."""
        return self.flags().help()

    def flags(self) -> Flags:
        """The flags, for help without this parser; the same on every machine."""
        shown: dict[str, Iterable[str]] = {
            "Data": DataConfig.__dataclass_fields__,
            "Model, LoRA, prompt and test": RankerConfig.__dataclass_fields__,
            **_TRAINER_GROUPS,
        }

        often = {name for names in shown.values() for name in names}
        every = [*CheckpointConfig.__dataclass_fields__, *TrainingArguments.__dataclass_fields__]

        return Flags(
            transformers=transformers.__version__,
            groups={title: self._described(names) for title, names in shown.items()},
            rare=self._described(name for name in every if name not in often),
            spellings=sorted(option for action in self._actions for option in action.option_strings),
        )

    def _described(self, names: Iterable[str]) -> list[Flag]:
        known = {action.dest for action in self._actions}
        return [self._flag(self._option(name)) for name in names if name in known]

    def _flag(self, action: argparse.Action) -> Flag:
        text = _OWN_HELP.get(action.dest) or (action.help or "")
        if action.dest not in _OWN_HELP and action.dest in TrainingArguments.__dataclass_fields__:
            # The Trainer's texts are paragraphs; a list has room for the first sentence.
            text = text.partition(". ")[0].rstrip(".").replace("%(default)", "%%(default)") + "."

        if action.default not in (None, "", argparse.SUPPRESS) and "default" not in text:
            text = f"{text.rstrip('.')} (default: {_shown(action.default)})."

        # HfArgumentParser also accepts --data-root; help lists each flag once.
        metavar = action.metavar or ("" if action.nargs == 0 else _metavar(action))
        return Flag(action.option_strings[0], action.nargs, str(metavar), text % vars(action))

    def _option(self, name: str) -> argparse.Action:
        return next(action for action in self._actions if action.dest == name)


def _metavar(action: argparse.Action) -> str:
    if action.choices and len(list(action.choices)) > 6:
        return "NAME"
    if action.choices:
        return "{" + ",".join(str(choice) for choice in action.choices) + "}"
    return {int: "N", float: "X"}.get(action.type, "TEXT") if isinstance(action.type, type) else "VALUE"


def _shown(value: object) -> str:
    return str(getattr(value, "value", value)).replace("%", "%%")
