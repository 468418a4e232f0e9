"""Trains LRURec and writes the top candidates of every user; the same as `llamarec train-retriever`."""

from __future__ import annotations

import sys

from llamarec.cli import train_retriever
from llamarec.cli.entry_point import run_main


def main() -> int:
    """Runs the command line; see `python train_retriever.py --help`."""
    return train_retriever.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run_main(main, ["python", *sys.argv], trains=True))
