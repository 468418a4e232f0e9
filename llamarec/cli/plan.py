"""`llamarec plan`: memory, time and automatic choices of a training, before any weights are loaded."""

from __future__ import annotations

import argparse

from llamarec.cli.arguments import Subparsers, add_verb
from llamarec.cli.fast_help import answer_early
from llamarec.cli.output import print_json
from llamarec.command import flag_name
from llamarec.errors import EXIT_FINISHED, ConfigError

SUMMARY = "Estimate the memory and time of a ranker training, and show what is chosen for this machine."

_EPILOG = """\
FLAGS are those of train_ranker.py and are never overridden.
Options without a flag are chosen for this machine: 4-bit
weights or not, activation checkpointing, samples per forward
pass. The number of samples per step never changes.

  llamarec plan --dataset_code beauty
  llamarec plan --dataset_code beauty --llm_base_model smollm2-135m

The plan reads the base model's configuration and tokenizer and
the prepared data (prepared now if necessary), but no weights.
"""


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    # All flags except --json and --help go to the training's parser, so none may be one for this parser.
    parser = add_verb(commands, "plan", SUMMARY, _EPILOG, prefix_chars="+")
    parser.usage = "llamarec plan [--json] --dataset_code DATASET [FLAGS]"
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="Flags of train_ranker.py, and --json.")
    parser.set_defaults(execute=execute, print_help=parser.print_help)


def execute(arguments: argparse.Namespace) -> int:
    """Prints the plan."""
    words = [word for word in arguments.flags if word != "--json"]
    if {"-h", "--help"} & set(words):
        arguments.print_help()
        return EXIT_FINISHED
    if not any(flag_name(word) == flag_name("--dataset_code") for word in words):
        raise ConfigError("llamarec plan: which data set?", hint="llamarec plan --dataset_code beauty")

    answer_early(words)

    from rich.console import Console

    from llamarec.ranker.options.command_line import parse
    from llamarec.ranker.training.run import plan_ranker

    as_json = len(words) < len(arguments.flags)
    console = Console(markup=False, emoji=False)
    plan = plan_ranker(parse(words, mend=False), Console(quiet=True) if as_json else console)
    if as_json:
        print_json(plan.as_dict())
    else:
        for line in plan.lines():
            console.print(line, soft_wrap=True)
    return EXIT_FINISHED
