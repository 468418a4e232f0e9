"""The `llamarec` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from llamarec import __version__
from llamarec.cli import (
    compare,
    demo,
    export,
    launch,
    plan,
    prepare,
    recommend,
    report,
    serve,
    train_ranker,
    train_retriever,
)
from llamarec.cli.arguments import Parser
from llamarec.cli.checkpoints import command as checkpoints
from llamarec.cli.entry_point import run_main
from llamarec.command import TRAIN_RANKER, TRAIN_RETRIEVER

_VERBS = (prepare, plan, launch, checkpoints, report, compare, recommend, serve, export, demo)
# Commands with hundreds of flags, which they read themselves.
_TRAININGS = {
    TRAIN_RETRIEVER: (train_retriever.main, "Train the retriever; also python train_retriever.py in a clone."),
    TRAIN_RANKER: (train_ranker.main, "Train the ranker; also python train_ranker.py in a clone."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] and words[0] in _TRAININGS:
        train, _ = _TRAININGS[words[0]]
        return run_main(partial(train, words[1:]), ["llamarec", *words], trains=True)
    return run_main(partial(_run, words))


def parser() -> Parser:
    """The parser of the command and all its verbs."""
    whole = Parser(
        prog="llamarec",
        description="Llama with LoRA for ranking recommendations, and checkpoints that survive a kill at any moment.",
    )
    whole.add_argument("--version", action="version", version=f"llamarec {__version__}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (_, summary) in _TRAININGS.items():
        commands.add_parser(name, help=summary, add_help=False)
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
