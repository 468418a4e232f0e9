"""Fine-tunes a Llama with LoRA to order the retriever's candidates: parse, build, fit, report."""

from __future__ import annotations

import sys

from llamarec.cli.run import run_main


def main() -> int:
    """The command line; see `python train_ranker.py --help`."""
    from rich.console import Console

    from llamarec.evaluation.tables import print_comparison
    from llamarec.ranker.arguments import parse
    from llamarec.ranker.run import train_ranker

    data_config, config, args = parse(sys.argv[1:])
    console = Console()
    comparison = train_ranker(data_config, config, args, console)
    print_comparison(comparison, console, title=f"test of {data_config.dataset_code}")
    experiment = data_config.experiment
    console.print(f"\nbest adapter {experiment.checkpoints}\nmetrics      {experiment.ranker / 'metrics.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
