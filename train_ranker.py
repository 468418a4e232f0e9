"""Fine-tunes a Llama with LoRA to order the retriever's candidates; the same as `llamarec train-ranker`."""

from __future__ import annotations

import sys

from llamarec.cli import train_ranker
from llamarec.cli.entry_point import run_main


def main() -> int:
    """Runs the command line; see `python train_ranker.py --help`."""
    return train_ranker.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run_main(main, ["python", *sys.argv], trains=True))
