"""Trains LRURec and proposes the top candidates of every user: parse, build, fit, report."""

from __future__ import annotations

import sys

from llamarec.cli.arguments import Parser, add_dataclass_arguments, dataclass_from
from llamarec.cli.run import run_main
from llamarec.data.config import DataConfig
from llamarec.retriever.config import RetrieverConfig, defaults_for


def main() -> int:
    """The command line; see `python train_retriever.py --help`."""
    parser = Parser(prog="train_retriever.py", description=__doc__)
    add_dataclass_arguments(parser, DataConfig, title="data")
    add_dataclass_arguments(parser, RetrieverConfig, title="retriever")
    given = parser.parse_args()
    # Defaults of the data set, then the command line over them: a value given is never overwritten.
    parser.set_defaults(**defaults_for(given.dataset_code))
    arguments = parser.parse_args()
    data_config = dataclass_from(DataConfig, arguments)
    config = dataclass_from(RetrieverConfig, arguments)

    from rich.console import Console

    from llamarec.retriever.train import print_report, train_retriever

    console = Console()
    report = train_retriever(data_config, config, console)
    print_report(report, console)
    console.print(f"\ncandidates  {data_config.experiment.retriever / 'candidates.parquet'}", soft_wrap=True)
    console.print(f"next        python train_ranker.py --dataset_code {data_config.dataset_code}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
