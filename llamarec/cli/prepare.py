"""`llamarec prepare`: raw files -> experiments/data/{dataset_code}."""

from __future__ import annotations

import argparse
from typing import Any

from llamarec.cli.arguments import add_dataclass_arguments, dataclass_from
from llamarec.data.config import DataConfig

SUMMARY = "Prepare a data set: read, filter, number, sort by time, split."


def add_parser(commands: Any) -> None:
    """Adds the verb to the command's subparsers."""
    parser = commands.add_parser("prepare", help=SUMMARY, description=SUMMARY)
    add_dataclass_arguments(parser, DataConfig, title="data")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prepares the data set and says where it lies."""
    from llamarec.data.prepare import prepare

    prepare(dataclass_from(DataConfig, arguments))
    return 0
