"""`llamarec checkpoints plan`: a preview of a resume that loads no model and no data."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llamarec.checkpoints.storage.discovery import LATEST, choose_checkpoint
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.names import find_either
from llamarec.cli.output import print_json, print_wrapped
from llamarec.errors import EXIT_FINISHED, CheckpointError, ConfigError

if TYPE_CHECKING:
    from llamarec.checkpoints.resume.current_process import CurrentProcess
    from llamarec.checkpoints.storage.manifest import Manifest

SUMMARY = "Show what a resume would do and change; loads no model."

_EPILOG = """\
Shows the checkpoint that a resume would use, why not a
newer one, and what FLAGS would change.

  llamarec checkpoints plan beauty
  llamarec checkpoints plan beauty --learning_rate 5e-5
  llamarec checkpoints plan beauty \\
      --resume_from_checkpoint best

FLAGS are those you would add to the training's command.
Data and the retriever's files are compared if they are on
this machine; model and prompts only when training starts.
"""


def add_parser(verbs: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(verbs, "plan", SUMMARY, _EPILOG)
    parser.usage = "llamarec checkpoints plan [--json] RUN [FLAGS]"
    add_common_arguments(parser)
    parser.add_argument("run_name", metavar="RUN", help="A data set code, a folder or a checkpoint.")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="Flags of the training.")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Prints the plan."""
    as_json, root, flags = _own_flags(arguments)
    found = find_either(arguments.run_name, root)
    folder = found if isinstance(found, RunFolder) else RunFolder(found.parent)
    wanted = _wanted(flags) or (LATEST if isinstance(found, RunFolder) else str(found))
    from llamarec.checkpoints.resume.readable import check_readable

    choice = choose_checkpoint(folder, wanted, allow_partial="--allow_partial_resume" in flags, check=check_readable)
    if choice is None:
        raise CheckpointError(
            f"there is no checkpoint in {folder.path} yet, so training would start at step 0",
            hint="type the training's command; --resume_from_checkpoint may be in it from the start",
        )

    from llamarec.checkpoints.resume.decision import decide

    plan = decide(choice, _current_process(folder, choice.verdict.manifest, str(choice.verdict.path), flags)).plan
    if as_json:
        print_json(plan.as_dict())
    else:
        for line in plan.lines():
            print_wrapped(line, hanging=13)
    return EXIT_FINISHED


def _own_flags(arguments: argparse.Namespace) -> tuple[bool, Path, list[str]]:
    """--json and --experiment_root, which may follow RUN too, and the remaining flags, which are the training's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    add_common_arguments(parser)
    own, flags = parser.parse_known_args(arguments.flags, argparse.Namespace(**vars(arguments)))
    return own.json, own.experiment_root, flags


def _wanted(flags: list[str]) -> str:
    """The value of --resume_from_checkpoint among the flags; empty without that flag."""
    for at, flag in enumerate(flags):
        if flag.startswith("--resume_from_checkpoint="):
            return flag.partition("=")[2]
        if flag == "--resume_from_checkpoint":
            following = flags[at + 1] if at + 1 < len(flags) else ""
            return following if following and not following.startswith("--") else LATEST
    return ""


def _current_process(folder: RunFolder, manifest: Manifest | None, checkpoint: str, flags: list[str]) -> CurrentProcess:
    """The training that the flags would start."""
    saved = manifest.hyperparameters if manifest is not None else {}
    if "dataset_code" in saved:
        return _process_of_ranker(folder, str(saved["dataset_code"]), checkpoint, flags)
    return _process_of_any_trainer(folder, saved, flags)


def _process_of_ranker(folder: RunFolder, dataset_code: str, checkpoint: str, flags: list[str]) -> CurrentProcess:
    from llamarec.checkpoints.resume.current_process import CurrentProcess, hyperparameters_of
    from llamarec.ranker.options.command_line import parse
    from llamarec.ranker.trained.locations import experiment_of
    from llamarec.ranker.training.build import own_options
    from llamarec.ranker.training.fingerprints import fingerprint_sources, stored_fingerprints

    experiment = experiment_of(folder)
    root = ["--experiment_root", str(experiment.root)] if experiment is not None else []
    argv = ["--dataset_code", dataset_code, *root, "--output_dir", str(folder.path), *flags]
    # The checkpoint is chosen already; without a value the training's parser would choose again.
    argv += ["--resume_from_checkpoint", checkpoint]
    parsed = parse(argv, mend=False)
    return CurrentProcess(
        args=parsed.training,
        num_samples=None,
        hyperparameters=hyperparameters_of(parsed.training, own_options(parsed)),
        defaults=parsed.defaults,
        fingerprints=stored_fingerprints(parsed.experiment, parsed.ranker),
        allowed=parsed.checkpoints.changes_allowed,
        origins=fingerprint_sources(parsed.experiment),
        is_preview=True,
    )


def _process_of_any_trainer(folder: RunFolder, saved: Mapping[str, object], flags: list[str]) -> CurrentProcess:
    from transformers import HfArgumentParser, TrainingArguments

    from llamarec.checkpoints.config import CheckpointConfig
    from llamarec.checkpoints.resume.current_process import CurrentProcess, hyperparameters_of

    types = (TrainingArguments, CheckpointConfig)
    parser = HfArgumentParser(
        types,  # type: ignore[arg-type]
        prog="llamarec checkpoints plan",
        allow_abbrev=False,
    )
    known = {action.dest for action in parser._actions}
    defaults = {name: value for name, value in saved.items() if name in known and not isinstance(value, dict)}
    parser.set_defaults(**{**defaults, "output_dir": str(folder.path)})

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            args, config = parser.parse_args_into_dataclasses(flags)
    except (ValueError, SystemExit) as error:
        text = errors.getvalue().strip().rpartition("error: ")[2] or str(error)
        raise ConfigError(f"these flags are wrong: {text}", hint="use the flags of TrainingArguments") from error

    # Options that only the user's own program knows count as unchanged.
    others = json.loads(json.dumps({name: value for name, value in saved.items() if name not in known}))
    return CurrentProcess(
        args=args,
        num_samples=None,
        hyperparameters={**hyperparameters_of(args, {}), **others},
        defaults={},
        fingerprints={},
        allowed=config.changes_allowed,
        is_preview=True,
    )
