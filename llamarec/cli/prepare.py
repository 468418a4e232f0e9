"""`llamarec prepare`: raw files -> experiments/data/{dataset_code}."""

from __future__ import annotations

import argparse

from llamarec.cli.arguments import Subparsers, add_dataclass_arguments, dataclass_from
from llamarec.command import given_in
from llamarec.data.config import DataConfig

SUMMARY = "Prepare a data set: read, filter, number, sort by time and split it."


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = commands.add_parser("prepare", help=SUMMARY, description=SUMMARY)
    add_dataclass_arguments(parser, DataConfig, title="data")
    add_prepare_again(parser)
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Read the first million rows and print the summary. Nothing is written or downloaded.",
    )
    parser.set_defaults(execute=execute)


def add_prepare_again(parser: argparse.ArgumentParser) -> None:
    """The flag of commands that can replace prepared data."""
    parser.add_argument(
        "--prepare_again",
        action="store_true",
        help="Replace prepared data even if a retriever or ranker was trained on them. Trained models are kept, but "
        "their training cannot be resumed.",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Prepares the data set and prints its folder and its summary."""
    from llamarec.data.prepare import dry_run, prepare, resolve_options

    config = resolve_options(dataclass_from(DataConfig, arguments), given_in(arguments.argv))
    if arguments.dry_run:
        dry_run(config)
        return 0

    prepare(config, again=arguments.prepare_again)
    return 0
