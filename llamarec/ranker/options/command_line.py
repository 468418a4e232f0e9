"""The ranker's command line: four dataclasses, one of them the `TrainingArguments` of Hugging Face.

The recipe's values are parser defaults, so a flag that is given always wins. Defaults that depend on another flag
(batch size on the data set, `eval_steps` on `save_steps`) are decided before parsing, by `recipe_defaults`. On a resume
the checkpoint's values become defaults in the same way (`kept`).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from transformers import TrainingArguments

from llamarec.checkpoints.backup.stores import open_store
from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.mirror.fetching import bring_newest, one_at_a_time
from llamarec.checkpoints.resume.readable import check_readable
from llamarec.checkpoints.storage.discovery import BEST, LATEST, ResumeChoice, choose_checkpoint
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import RunLock
from llamarec.checkpoints.storage.ownership import check_can_resume
from llamarec.checkpoints.storage.recovery import recover
from llamarec.checkpoints.trainer.console import Console
from llamarec.command import given_in
from llamarec.credentials import without_credentials
from llamarec.data.config import DataConfig
from llamarec.data.prepare import resolve_options
from llamarec.errors import ConfigError
from llamarec.hardware import has_accelerator, has_bfloat16
from llamarec.ranker.options.config import HINTS, ITEMS, LETTERS, TINY, RankerConfig, is_embedded
from llamarec.ranker.options.parser import RankerArgumentParser
from llamarec.ranker.options.readouts import (
    BATCH_OF_ITEMS,
    DEFAULTS_OF_ITEMS,
    EVAL_BATCH_OF_ITEMS,
    check_metric,
    check_readout,
    check_same_readout,
)
from llamarec.ranker.options.resume_defaults import kept_values
from llamarec.vocabulary import CHECKPOINTS, Experiment

_EVAL_STEPS: Final = 100
_WARMUP_STEPS: Final = 100


class Parsed(NamedTuple):
    """A command line, with a resumed checkpoint's values for flags that are not given.

    Attributes:
        data: The data set and its preparation.
        ranker: Model, LoRA, prompt and test.
        training: Arguments of the Hugging Face Trainer.
        checkpoints: Options of checkpoints beyond the Trainer's.
        given: Flags on the command line, with their values.
        defaults: This command's own defaults for the values that it kept from the checkpoint.
        kept: Names of all values kept from the checkpoint.
    """

    data: DataConfig
    ranker: RankerConfig
    training: TrainingArguments
    checkpoints: CheckpointConfig
    given: dict[str, object]
    defaults: dict[str, object]
    kept: frozenset[str] = frozenset()
    choice: ResumeChoice | None = None

    @property
    def experiment(self) -> Experiment:
        """The experiment, with results beside the checkpoints: a run with its own --output_dir replaces no other's."""
        experiment, folder = self.data.experiment, Path(str(self.training.output_dir))

        if folder.resolve() == experiment.checkpoints.resolve():
            return experiment
        return replace(experiment, ranker_at=folder.parent if folder.name == CHECKPOINTS else folder)


def parse(argv: Sequence[str], *, mend: bool = True) -> Parsed:
    """The options that a command line means.

    Args:
        argv: Words of the command line, without the program's name.
        mend: Finish or remove what a killed save left, before looking for a checkpoint. False: write nothing.

    Raises:
        ConfigError: an unknown flag (names the nearest), a value out of range, or a contradiction.
        CheckpointError: the checkpoint to resume does not exist or cannot be resumed.
        SystemExit: after --help or --help_all.
    """
    parser = RankerArgumentParser()
    if "--help_all" in argv:
        sys.stdout.write(parser.flags().help(everything=True))
        raise SystemExit(0)

    given, unknown = parser.parse_known_args(list(argv))
    parser.flags().refuse(unknown)
    flags = given_in(argv) & vars(given).keys()

    parser.set_defaults(**recipe_defaults(given, flags))
    choice = _chosen(parser.parse_args(list(argv)), mend)
    defaults, kept = _keep_checkpoint_values(parser, argv, flags, choice)

    try:
        with warnings.catch_warnings():
            # --gradient_checkpointing is the name that people know, so it is accepted without a warning.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
            data, ranker, training, checkpoints, _ = parser.parse_args_into_dataclasses(list(argv))
    except ValueError as error:
        hint = _fitting_steps(parser.parse_args(list(argv)))
        raise ConfigError(f"these training arguments do not fit: {error}", hint=hint) from error

    _check_length(training)
    check_metric(str(training.metric_for_best_model or ""), ranker.readout)
    check_readout(ranker, flags)
    if choice is not None and choice.verdict.manifest is not None:
        check_same_readout(str(choice.verdict.manifest.hyperparameters.get("readout", LETTERS)), ranker.readout)

    if kept and "init_adapter" in flags:
        # The start of a run cannot change; its record stays.
        ranker = replace(ranker, init_adapter=parser.get_default("init_adapter"))
        flags -= {"init_adapter"}

    # Access tokens stay out of checkpoints and reports.
    values = {name: _plain(getattr(given, name)) for name in sorted(flags) if not name.endswith("_token")}
    return Parsed(
        data=resolve_options(data, flags | kept),
        ranker=ranker,
        training=training,
        checkpoints=checkpoints,
        given=values,
        defaults=defaults,
        kept=kept,
        choice=choice,
    )


def _fitting_steps(values: argparse.Namespace) -> str | None:
    """What to type where a save does not always have a validation beside it; None where that is not the problem."""
    save, validate = values.save_steps, values.eval_steps or values.logging_steps
    if not values.load_best_model_at_end or min(save, validate) < 1 or save % validate == 0:
        return None
    next_multiple = validate * math.ceil(save / validate)
    return f"--save_steps {next_multiple:g}, or --eval_steps {save:g}, or --load_best_model_at_end false"


def _plain(value: object) -> object:
    """A whole number instead of a float: the parser reads numbers of steps as floats, since they may be shares too.

    Addresses lose their passwords.
    """
    if isinstance(value, str):
        return without_credentials(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) > 1 else value


def _check_length(training: TrainingArguments) -> None:
    """Refuses a number of steps that the Trainer would read as no limit."""
    if training.max_steps != -1 and training.max_steps < 1:
        raise ConfigError(
            f"--max_steps {training.max_steps}: no number of steps",
            expected="1 or more, or -1 (no limit beside --num_train_epochs)",
            hint="to test a finished run again, repeat its command with --resume_from_checkpoint",
        )


def _keep_checkpoint_values(
    parser: RankerArgumentParser, argv: Sequence[str], flags: set[str], choice: ResumeChoice | None
) -> tuple[dict[str, object], frozenset[str]]:
    """Makes a checkpoint's values the parser's defaults; returns the replaced defaults and the names of the values."""
    wanted = parser.parse_args(list(argv))
    manifest = choice.verdict.manifest if choice is not None else None
    if manifest is None:
        return {}, frozenset()

    known = [action.dest for action in parser._actions]
    kept = kept_values(manifest.hyperparameters, manifest.given, flags, known)

    # Defaults that depend on another flag also depend on kept values.
    parser.set_defaults(**kept)
    merged = parser.parse_args(list(argv))
    again = recipe_defaults(merged, flags | manifest.given.keys())
    parser.set_defaults(**{name: value for name, value in again.items() if name not in kept})

    # Only values that the user had typed are reported; the others were defaults.
    return {name: getattr(wanted, name) for name in kept if name in manifest.given}, frozenset(kept)


def _chosen(wanted: argparse.Namespace, mend: bool) -> ResumeChoice | None:
    """The checkpoint to resume, verified; None where nothing is resumed."""
    if wanted.resume_from_checkpoint is None:
        return None

    run = RunFolder(Path(wanted.output_dir))

    here = _mended(run, wanted) if mend else None
    choice = choose_checkpoint(
        run,
        wanted.resume_from_checkpoint,
        allow_partial=wanted.allow_partial_resume,
        earlier=here,
        check=check_readable,
    )
    if choice is not None:
        check_can_resume(run, choice)
    return choice


def _mended(run: RunFolder, wanted: argparse.Namespace) -> ResumeChoice | None:
    """Finishes what a killed save left, and brings a newer checkpoint from the mirror.

    Returns:
        The newest good checkpoint here, where the mirror was compared with it.
    """
    # With several processes (torchrun), the first one does it.
    is_first = os.environ.get("RANK", "0") == "0"
    if not wanted.mirror or wanted.resume_from_checkpoint not in ("True", "true", True, LATEST, BEST):
        if run.path.is_dir() and is_first:
            with RunLock(run, HINTS):
                recover(run, HINTS)
        return None

    console = Console(is_first)
    # Each machine has a disk of its own; on one machine the others wait for the first, and find all there.
    with one_at_a_time(run):
        if is_first:
            with RunLock(run, HINTS):
                recover(run, HINTS)
        mirror = open_store(wanted.mirror)
        return bring_newest(mirror, run, say=console.print, warn=console.warn, check=check_readable)


def recipe_defaults(given: argparse.Namespace, flags: set[str]) -> dict[str, object]:
    """Defaults that depend on the machine or on another flag.

    Args:
        given: Namespace of a first parse.
        flags: Names of the flags on the command line.
    """
    on_cpu = bool(given.use_cpu) or not has_accelerator()
    # A step of the tiny model is all overhead; bfloat16 and micro-batches of one gain nothing.
    slow_cpu = on_cpu and given.llm_base_model != TINY
    items = given.readout == ITEMS
    batch = BATCH_OF_ITEMS if items or str(given.dataset_code).startswith("ml-") else 12
    validates = _validates(given, flags)
    # Short histories are fastest in float32, several in a pass (ranker/model/cpu/packed.py).
    packs = items and on_cpu
    bf16_is_default = not flags & {"bf16", "fp16"} and (slow_cpu or not on_cpu) and not packs and has_bfloat16(on_cpu)

    defaults: dict[str, object] = {
        "output_dir": str(_experiment(given).checkpoints),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 1,
        "per_device_eval_batch_size": (EVAL_BATCH_OF_ITEMS if items else 32) if on_cpu else 16,
        "warmup_steps": min(_WARMUP_STEPS, given.max_steps // 10) if given.max_steps > 0 else _WARMUP_STEPS,
        "eval_strategy": validates,
        "eval_steps": eval_steps_for(int(given.save_steps)),
        "load_best_model_at_end": validates != "no" and _strategy(given.save_strategy) != "no",
        "use_cpu": on_cpu,
        "bf16": bf16_is_default,
        "dataloader_pin_memory": not on_cpu,
        **(DEFAULTS_OF_ITEMS if items else {}),
    }

    bf16 = given.bf16 if "bf16" in flags else bf16_is_default
    if slow_cpu and bf16:
        # In float32 a CPU computes prompt by prompt in any case (ranker/model/cpu), and larger batches keep cores from
        # waiting. In bfloat16 micro-batches of one are several times faster: no padding, no new pages at every step.
        defaults["per_device_eval_batch_size"] = 4
        if not flags & {"per_device_train_batch_size", "gradient_accumulation_steps"}:
            defaults |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": batch}

    if not flags & {"gradient_checkpointing", "activation_checkpointing"}:
        defaults["activation_checkpointing"] = not is_embedded(given.llm_base_model)
    return defaults


def _experiment(given: argparse.Namespace) -> Experiment:
    return DataConfig(dataset_code=given.dataset_code, experiment_root=given.experiment_root).experiment


def eval_steps_for(save_steps: int) -> int:
    """About 100 steps between validations, so that every save coincides with one.

    >>> [eval_steps_for(n) for n in (20, 100, 250, 500, 127)]
    [20, 100, 50, 100, 127]
    """
    if save_steps <= _EVAL_STEPS:
        return save_steps
    divisors = [n for n in range(_EVAL_STEPS // 2, _EVAL_STEPS + 1) if save_steps % n == 0]
    return max(divisors, default=save_steps)


def _validates(given: argparse.Namespace, flags: set[str]) -> str:
    """The strategy of validation: that of saving, so that the best adapter is known at every save."""
    if "eval_strategy" in flags:
        return _strategy(given.eval_strategy)
    # What is best is found out by validations, so there is no strategy of that name for them.
    saves = _strategy(given.save_strategy)
    return "steps" if saves in ("no", "best") else saves


def _strategy(value: object) -> str:
    return str(getattr(value, "value", value))
