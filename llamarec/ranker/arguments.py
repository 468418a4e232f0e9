"""The ranker's command line: four dataclasses, one of them Hugging Face's own `TrainingArguments`.

Defaults of the recipe are parser defaults: whatever the user gives wins, always. The ones that depend on another
flag (batch size on the data set, `eval_steps` on `save_steps`) are decided before parsing, by `recipe_defaults`. On a
resume the checkpoint's values become defaults in the same way (`kept`), so a flag that is given wins there too.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.discovery import LATEST, choose
from llamarec.checkpoints.layout import RunFolder
from llamarec.checkpoints.lock import RunLock
from llamarec.checkpoints.manifest import Manifest
from llamarec.checkpoints.publish import recover
from llamarec.data.config import DataConfig
from llamarec.errors import ConfigError
from llamarec.hardware import has_accelerator, has_fast_bfloat16
from llamarec.ranker.base_models import TINY, is_embedded
from llamarec.ranker.config import RankerConfig
from llamarec.ranker.kept import kept_values
from llamarec.vocabulary import Experiment

_EVAL_STEPS: Final = 100
_WARMUP_STEPS: Final = 100

# The Trainer's arguments that people set, in the order in which they ask for them; the rest is in --help_all.
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
        "allow_changed",
        "restart",
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
# The recipe's values that depend on nothing else (LlamaRec, section 4.1), and what our model needs of the Trainer.
_RECIPE: Final[dict[str, Any]] = {
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
    # Patience is part of what a resume must not lose.
    "restore_callback_states_from_checkpoint": True,
}
_OWN_HELP: Final = {
    "resume_from_checkpoint": "Go on from this checkpoint folder; without a value, or with 'latest', from the newest "
    "one that verifies (from the start if there is none yet); with 'best', from the best. Every flag that is not "
    "given keeps the checkpoint's value.",
    "output_dir": "Where checkpoint-{step}/ and the best adapter go (default: "
    "{experiment_root}/llm/{dataset_code}/checkpoints).",
    "per_device_train_batch_size": "Samples per device in one forward pass (default: 16 for MovieLens, else 12; on a "
    "CPU 1, with as many --gradient_accumulation_steps).",
    "per_device_eval_batch_size": "Prompts per device in one forward pass of evaluation (default: 16, on a CPU 4).",
    "load_best_model_at_end": "Test with the best adapter, and keep it in --output_dir itself (default: True).",
    "metric_for_best_model": "What is best: overall_ or subset_ and recall@1, recall@10, ndcg@10 or mrr@10 "
    "(default: overall_ndcg@10).",
    "save_total_limit": "Checkpoints kept (default: 3).",
    "max_steps": "Ends after so many steps, whatever --num_train_epochs says (default: -1, no limit).",
    "gradient_accumulation_steps": "Forward and backward passes per step (default: 1; see the line above).",
    "eval_steps": "Steps between validations (default: about 100, such that it divides --save_steps).",
    "warmup_steps": "Steps of linear warm-up (default: 100, at most a tenth of --max_steps).",
    "bf16": "Compute in bfloat16 (default: where the hardware has it).",
    "activation_checkpointing": "Recompute activations to save memory (default: on, except for embedded models).",
    "gradient_checkpointing": "Older name of --activation_checkpointing.",
}


class RankerArgumentParser(HfArgumentParser):
    """`HfArgumentParser` with grouped help, no abbreviations, and errors that propose the nearest flag."""

    def __init__(self) -> None:
        types: Any = (DataConfig, RankerConfig, TrainingArguments, CheckpointConfig)
        super().__init__(types, prog="train_ranker.py", allow_abbrev=False)
        self.add_argument("--help_all", action="store_true", help="Show every argument of the Trainer too.")
        self.set_defaults(**_RECIPE)
        resume = self._option("resume_from_checkpoint")
        resume.nargs, resume.const, resume.metavar = "?", LATEST, "CHECKPOINT"

    def error(self, message: str) -> NoReturn:
        """As our own error, with exit code and form like every other."""
        raise ConfigError(f"train_ranker.py: {message}", hint="python train_ranker.py --help")

    def format_help(self, *, everything: bool = False) -> str:
        """Grouped; the Trainer's rarely used arguments only with `everything`."""
        formatter = argparse.HelpFormatter(self.prog, max_help_position=32)
        formatter.add_usage("%(prog)s --dataset_code DATASET [options]", [], [], prefix="usage: ")
        formatter.add_text(
            "Fine-tunes a Llama with LoRA to order the retriever's candidates. Train the retriever first: "
            "python train_retriever.py --dataset_code DATASET"
        )
        for title, names in self._groups(everything).items():
            formatter.start_section(title)
            formatter.add_arguments([self._described(name) for name in names])
            formatter.end_section()
        formatter.add_text("More: --help_all shows every argument of the Hugging Face Trainer.")
        return formatter.format_help()

    def _groups(self, everything: bool) -> dict[str, Sequence[str]]:
        data, ranker = list(DataConfig.__dataclass_fields__), list(RankerConfig.__dataclass_fields__)
        groups: dict[str, Sequence[str]] = {
            "Data": data,
            "Model, LoRA, prompt and test": ranker,
            **_TRAINER_GROUPS,
        }
        if everything:
            shown = {name for names in groups.values() for name in names}
            groups["Every other Trainer argument"] = [
                n for n in TrainingArguments.__dataclass_fields__ if n not in shown
            ]
        known = {action.dest for action in self._actions}
        return {title: [name for name in names if name in known] for title, names in groups.items()}

    def _described(self, name: str) -> argparse.Action:
        action = self._option(name)
        if name in _OWN_HELP:
            action.help = _OWN_HELP[name]
        elif action.help and name in TrainingArguments.__dataclass_fields__:
            # The Trainer's texts are paragraphs; the first sentence is what a list can hold.
            action.help = action.help.partition(". ")[0].rstrip(".").replace("%(default)", "%%(default)") + "."
        if action.default not in (None, "", argparse.SUPPRESS) and "default" not in (action.help or ""):
            action.help = f"{(action.help or '').rstrip('.')} (default: {_shown(action.default)})."
        # HfArgumentParser accepts --data-root too; twice the flags would be half the help.
        action.option_strings = action.option_strings[:1]
        action.metavar = action.metavar or ("" if action.nargs == 0 else _metavar(action))
        return action

    def _option(self, name: str) -> argparse.Action:
        return next(action for action in self._actions if action.dest == name)


class Parsed(NamedTuple):
    """A command line, with a resumed checkpoint's values where it says nothing.

    Attributes:
        data: Which data set.
        ranker: Model, LoRA, prompt.
        training: Hugging Face's arguments.
        checkpoints: What those do not have about checkpoints.
        given: The flags on the command line, with their values.
        defaults: What this command would have had for the values that it kept from the checkpoint.
    """

    data: DataConfig
    ranker: RankerConfig
    training: TrainingArguments
    checkpoints: CheckpointConfig
    given: dict[str, Any]
    defaults: dict[str, Any]


def parse(argv: Sequence[str], *, mend: bool = True) -> Parsed:
    """The dataclasses from a command line.

    Args:
        argv: Without the program's name.
        mend: Finish or clear what a killed save left before a checkpoint is looked for; otherwise nothing is written.

    Raises:
        ConfigError: an unknown flag (names the nearest), a value that does not fit, or a contradiction.
        CheckpointError: the checkpoint to resume does not exist or cannot be resumed.
        SystemExit: after --help or --help_all.
    """
    parser = RankerArgumentParser()
    if "--help_all" in argv:
        sys.stdout.write(parser.format_help(everything=True))
        raise SystemExit(0)
    given, unknown = parser.parse_known_args(list(argv))
    _refuse_unknown(parser, unknown)
    flags = _flags_in(argv) & vars(given).keys()
    parser.set_defaults(**recipe_defaults(given, flags))
    defaults = _keep(parser, argv, flags, mend)
    try:
        with warnings.catch_warnings():
            # The older name is the one people know; it is ours to accept it without a word.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
            data, ranker, training, checkpoints, _ = parser.parse_args_into_dataclasses(list(argv))
    except ValueError as error:
        raise ConfigError(f"these training arguments do not fit: {error}") from error
    values = {name: getattr(given, name) for name in sorted(flags)}
    return Parsed(data, ranker, training, checkpoints, values, defaults)


def _keep(parser: RankerArgumentParser, argv: Sequence[str], flags: set[str], mend: bool) -> dict[str, Any]:
    """Makes a checkpoint's values the parser's defaults; returns the defaults that they replaced."""
    wanted = parser.parse_args(list(argv))
    if wanted.resume_from_checkpoint is None:
        return {}
    manifest = _manifest_of(wanted, mend)
    if manifest is None:
        return {}
    known = [action.dest for action in parser._actions]
    kept = kept_values(manifest.hyperparameters, manifest.given, flags, known)
    # A default that depends on another flag depends on a kept one too.
    parser.set_defaults(**kept)
    merged = parser.parse_args(list(argv))
    again = recipe_defaults(merged, flags | manifest.given.keys())
    parser.set_defaults(**{name: value for name, value in again.items() if name not in kept})
    # Only what somebody typed is worth a line: the rest is the defaults of then.
    return {name: getattr(wanted, name) for name in kept if name in manifest.given}


def _manifest_of(wanted: argparse.Namespace, mend: bool) -> Manifest | None:
    """Of the checkpoint to resume."""
    run = RunFolder(Path(wanted.output_dir))
    # Of several processes (torchrun) the first one does it.
    if mend and run.path.is_dir() and os.environ.get("RANK", "0") == "0":
        with RunLock(run):
            recover(run)
    choice = choose(run, wanted.resume_from_checkpoint, allow_partial=wanted.allow_partial_resume)
    return choice.verdict.manifest if choice is not None else None


def recipe_defaults(given: Any, flags: set[str]) -> dict[str, Any]:
    """Defaults that depend on the machine or on another flag; they hold where the user gave no value.

    Args:
        given: Namespace of a first parse.
        flags: Names of the flags on the command line.
    """
    on_cpu = bool(given.use_cpu) or not has_accelerator()
    # Of the tiny model a step is all overhead; it gains nothing from either.
    slow_cpu = on_cpu and given.llm_base_model != TINY
    batch = 16 if str(given.dataset_code).startswith("ml-") else 12
    validates = _validates(given, flags)
    defaults: dict[str, Any] = {
        "output_dir": str(_experiment(given).checkpoints),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 1,
        "per_device_eval_batch_size": 4 if on_cpu else 16,
        "warmup_steps": min(_WARMUP_STEPS, given.max_steps // 10) if given.max_steps > 0 else _WARMUP_STEPS,
        "eval_strategy": validates,
        "eval_steps": eval_steps_for(int(given.save_steps)),
        "load_best_model_at_end": validates != "no" and _strategy(given.save_strategy) != "no",
        "use_cpu": on_cpu,
        "bf16": not flags & {"bf16", "fp16"} and (slow_cpu or not on_cpu) and _has_bf16(on_cpu),
        "dataloader_pin_memory": not on_cpu,
    }
    if slow_cpu and not flags & {"per_device_train_batch_size", "gradient_accumulation_steps"}:
        # The same step, one sample at a time: without padding, and without pages that are new at every step, a
        # processor is several times faster so.
        defaults |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": batch}
    if not flags & {"gradient_checkpointing", "activation_checkpointing"}:
        defaults["activation_checkpointing"] = not is_embedded(given.llm_base_model)
    return defaults


def _has_bf16(on_cpu: bool) -> bool:
    if on_cpu:
        return has_fast_bfloat16()
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _experiment(given: Any) -> Experiment:
    return DataConfig(dataset_code=given.dataset_code, experiment_root=given.experiment_root).experiment


def eval_steps_for(save_steps: int) -> int:
    """About 100 steps between validations, such that every save falls on one.

    >>> [eval_steps_for(n) for n in (20, 100, 250, 500, 127)]
    [20, 100, 50, 100, 127]
    """
    if save_steps <= _EVAL_STEPS:
        return save_steps
    divisors = [n for n in range(_EVAL_STEPS // 2, _EVAL_STEPS + 1) if save_steps % n == 0]
    return max(divisors, default=save_steps)


def _validates(given: Any, flags: set[str]) -> str:
    """Validation follows saving, so that the best adapter is known at every save."""
    if "eval_strategy" in flags:
        return _strategy(given.eval_strategy)
    return "steps" if _strategy(given.save_strategy) == "no" else _strategy(given.save_strategy)


def _strategy(value: Any) -> str:
    return str(getattr(value, "value", value))


def _flags_in(argv: Sequence[str]) -> set[str]:
    return {text[2:].partition("=")[0].replace("-", "_") for text in argv if text.startswith("--")}


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: list[str]) -> None:
    if not unknown:
        return
    flag = unknown[0].partition("=")[0]
    known = [option for action in parser._actions for option in action.option_strings if "-" not in option[2:]]
    near = difflib.get_close_matches(flag, known, n=3)
    raise ConfigError(
        f"unknown argument {flag}",
        expected=f"perhaps {' or '.join(near)}" if near else None,
        hint="python train_ranker.py --help_all",
    )


def _metavar(action: argparse.Action) -> str:
    if action.choices and len(list(action.choices)) > 6:
        return "NAME"
    if action.choices:
        return "{" + ",".join(str(choice) for choice in action.choices) + "}"
    return {int: "N", float: "X"}.get(action.type, "TEXT") if isinstance(action.type, type) else "VALUE"


def _shown(value: Any) -> str:
    text = _strategy(value)
    return text.replace("%", "%%")
