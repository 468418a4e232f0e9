"""`llamarec plan`: memory, time and automatic choices of a training, before any weights are loaded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields

from llamarec.cli.arguments import Parser, Subparsers, add_dataclass_arguments, add_verb, dataclass_from
from llamarec.cli.fast_help import answer_early
from llamarec.cli.output import print_json
from llamarec.command import flag_name
from llamarec.errors import EXIT_FINISHED, ConfigError
from llamarec.planning.cluster_options import Cluster

SUMMARY = "Estimate the memory and time of a ranker training, and show what is chosen for this machine."

_EPILOG = """\
FLAGS are those of train_ranker.py and are never overridden.
Options without a flag are chosen for this machine: 4-bit
weights or not, activation checkpointing, samples per forward
pass. The number of samples per step never changes.

  llamarec plan --dataset_code beauty
  llamarec plan --dataset_code beauty --llm_base_model smollm2-135m

On several GPUs, and on machines that fail:

  llamarec plan --gpus 8 --nodes 8 --mtbf 200 --dataset_code beauty

{cluster}

The expected duration with and without --save_seconds follows
from a save that is measured in the run's folder, as if training
waited for all of it. Recommended is the interval with the least
(Young, Daly). Every process takes as many samples a step as one
alone does.

The plan reads the base model's configuration and tokenizer and
the prepared data (prepared now if necessary), but no weights.
"""


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    # All flags except --json and --help go to the training's parser, so none may be one for this parser.
    epilog = _EPILOG.replace("{cluster}", _cluster_help())
    parser = add_verb(commands, "plan", SUMMARY, epilog, prefix_chars="+")
    parser.usage = "llamarec plan [--json] [--gpus N --nodes M --mtbf HOURS] --dataset_code DATASET [FLAGS]"
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="Flags of train_ranker.py, and those below.")
    parser.set_defaults(execute=execute, print_help=parser.print_help)


def execute(arguments: argparse.Namespace) -> int:
    """Prints the plan."""
    words, cluster = _split([word for word in arguments.flags if word != "--json"])
    if {"-h", "--help"} & set(words):
        arguments.print_help()
        return EXIT_FINISHED
    if not any(flag_name(word) == flag_name("--dataset_code") for word in words):
        raise ConfigError("llamarec plan: which data set?", hint="llamarec plan --dataset_code beauty")

    answer_early(words)

    from rich.console import Console

    from llamarec.ranker.options.command_line import parse
    from llamarec.ranker.training.plan_cluster import plan_on
    from llamarec.ranker.training.run import plan_ranker

    as_json = "--json" in arguments.flags
    console = Console(markup=False, emoji=False)
    parsed = parse(words, mend=False)
    plan = plan_ranker(parsed, Console(quiet=True) if as_json else console)
    several = plan_on(cluster, plan, parsed) if cluster is not None else None

    if as_json:
        print_json(plan.as_dict() if several is None else {**plan.as_dict(), "cluster": several.as_dict()})
        return EXIT_FINISHED
    for line in [*plan.lines(), *([] if several is None else ["", *several.lines()])]:
        console.print(line, soft_wrap=True)
    return EXIT_FINISHED


def _split(words: Sequence[str]) -> tuple[list[str], Cluster | None]:
    """The flags of the training, and the cluster that the others describe; None where there are no others."""
    names = {flag_name(f"--{item.name}") for item in fields(Cluster)}
    of_training, of_cluster = [], []
    for position, word in enumerate(words):
        before = words[position - 1] if position else ""
        # A value follows its flag, unless it is behind "=".
        is_value = before.startswith("--") and "=" not in before and flag_name(before) in names
        if is_value or (word.startswith("--") and flag_name(word) in names):
            of_cluster.append(word)
        else:
            of_training.append(word)
    if not of_cluster:
        return of_training, None

    parser = Parser(prog="llamarec plan", add_help=False)
    add_dataclass_arguments(parser, Cluster, title="cluster")
    return of_training, dataclass_from(Cluster, parser.parse_args([_spelled(word) for word in of_cluster]))


def _spelled(word: str) -> str:
    """A flag in the spelling that the parser knows; `--restart-seconds` is accepted too."""
    flag, equals, value = word.partition("=")
    return f"--{flag[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def _cluster_help() -> str:
    parser = argparse.ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    add_dataclass_arguments(parser, Cluster, title="flags of this command alone")
    return parser.format_help().strip()
