"""The `llamarec` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from llamarec import __version__
from llamarec.cli import compare, export, plan, prepare, recommend, report, serve
from llamarec.cli.arguments import Parser
from llamarec.cli.checkpoints import command as checkpoints
from llamarec.cli.entry_point import run_main

_VERBS = (prepare, plan, checkpoints, report, compare, recommend, serve, export)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_main(partial(_run, sys.argv[1:] if argv is None else argv))


def parser() -> Parser:
    """The parser of the command and all its verbs."""
    whole = Parser(
        prog="llamarec",
        description="Llama with LoRA for ranking recommendations. To train: python train_retriever.py, "
        "then python train_ranker.py.",
    )
    whole.add_argument("--version", action="version", version=f"llamarec {__version__}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for verb in _VERBS:
        verb.add_parser(commands)
    return whole


def _run(argv: Sequence[str]) -> int:
    whole = parser()
    arguments, unknown = whole.parse_known_args(argv, argparse.Namespace(argv=list(argv)))
    if unknown:
        # The verb's own parser names the nearest of its flags.
        _parser_of_verb(whole, argv).error(f"unrecognized arguments: {' '.join(unknown)}")
    return int(arguments.execute(arguments))


def _parser_of_verb(whole: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.ArgumentParser:
    for word in argv:
        children = [action for action in whole._actions if isinstance(action, argparse._SubParsersAction)]
        if children and word in children[0].choices:
            whole = children[0].choices[word]
    return whole


if __name__ == "__main__":
    sys.exit(main())
