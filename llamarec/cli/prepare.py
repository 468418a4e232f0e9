"""`llamarec prepare`: raw files -> experiments/data/{dataset_code}."""

from __future__ import annotations

import argparse

from llamarec.cli.arguments import Subparsers, add_dataclass_arguments, dataclass_from
from llamarec.command import given_in
from llamarec.data.config import DataConfig

SUMMARY = "Prepare a data set: read, filter, number, sort by time, split."


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = commands.add_parser("prepare", help=SUMMARY, description=SUMMARY)
    add_dataclass_arguments(parser, DataConfig, title="data")
    add_prepare_again(parser)
    parser.set_defaults(execute=execute)


def add_prepare_again(parser: argparse.ArgumentParser) -> None:
    """The flag of the commands that may replace prepared data."""
    parser.add_argument(
        "--prepare_again",
        action="store_true",
        help="Prepare other data in the place of data that something was trained on. What was trained stays where it "
        "is, but cannot be gone on with.",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Prepares the data set and says where it lies."""
    from llamarec.data.prepare import prepare, resolve_options

    config = resolve_options(dataclass_from(DataConfig, arguments), given_in(arguments.argv))
    prepare(config, again=arguments.prepare_again)
    return 0
