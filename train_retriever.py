"""Trains LRURec and proposes the top candidates of every user: parse, build, fit, report."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from llamarec.cli.arguments import Parser, add_dataclass_arguments, dataclass_from
from llamarec.cli.entry_point import run_main
from llamarec.cli.prepare import add_prepare_again
from llamarec.command import flags_of, given_in, typed
from llamarec.data.config import DataConfig
from llamarec.files import read_json
from llamarec.ranker.options.config import RankerConfig
from llamarec.retriever.config import RetrieverConfig, defaults_for
from llamarec.vocabulary import DESCRIPTION

if TYPE_CHECKING:
    from llamarec.retriever.train import RetrieverReport


def parser() -> Parser:
    """Of the command line."""
    whole = Parser(prog="train_retriever.py", description=__doc__)
    add_dataclass_arguments(whole, DataConfig, title="data")
    add_dataclass_arguments(whole, RetrieverConfig, title="retriever")
    add_prepare_again(whole)
    return whole


def main() -> int:
    """The command line; see `python train_retriever.py --help`."""
    command_line = parser()
    given = command_line.parse_args()
    # Defaults of the data set, then the command line over them: a value given is never overwritten.
    command_line.set_defaults(**defaults_for(given.dataset_code))
    arguments = command_line.parse_args()
    data_config = dataclass_from(DataConfig, arguments)
    config = dataclass_from(RetrieverConfig, arguments)

    from rich.console import Console

    from llamarec.data.prepare import resolve_options
    from llamarec.hardware import has_accelerator
    from llamarec.retriever.train import print_report, train_retriever

    console = Console(markup=False, emoji=False)
    data_config = resolve_options(data_config, given_in(sys.argv[1:]))
    report = train_retriever(data_config, config, console, prepare_again=arguments.prepare_again)
    print_report(report, console)
    console.print(f"\ncandidates  {data_config.experiment.candidates}", soft_wrap=True)
    # Paths may hold what rich reads as markup.
    step = next_step(report, data_config)
    if step.endswith("--restart"):
        was = f"the one in {data_config.experiment.ranker} was trained on what lay here before"
        console.print(f"ranker      {was}: it is to be trained anew", soft_wrap=True)
    console.print(f"next        {step}", soft_wrap=True, markup=False, highlight=False)
    if step.startswith("python") and "--llm_base_model" not in step and not has_accelerator():
        small = "--llm_base_model smollm2-135m --prompt_template letter_last"
        console.print(
            f"            (without a GPU: {small}; to see how it goes: --llm_base_model tiny)", soft_wrap=True
        )
    return 0


def next_step(report: RetrieverReport, data_config: DataConfig) -> str:
    """The ranker's command with every flag that these data and candidates need, or what stands in its way."""
    uncovered = [split for split, count in report.num_covered.items() if not count]
    if uncovered:
        return f"train longer or on more data: for no {' or '.join(uncovered)} user is the next item a candidate"
    if report.ranker_candidates < 2:
        return "this command with a larger --top_k: of one candidate there is nothing to rank"
    from llamarec.ranker.trained.retrain import retrain_command
    from llamarec.retriever.dependents import is_outdated

    # How the data are prepared is known from here on, and a table by its name.
    places = DataConfig(data_config.name, data_config.data_root, data_config.experiment_root)
    few = {"num_candidates": report.ranker_candidates}
    changes = few if report.ranker_candidates < RankerConfig.num_candidates else {}
    before = read_json(data_config.experiment.ranker / DESCRIPTION)
    if before is not None and is_outdated(before, data_config.experiment):
        base_model = (before.get("config") or {}).get("llm_base_model")
        return retrain_command(
            data_config.experiment, **({"llm_base_model": base_model} if base_model else {}), **changes
        )
    flags = [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    return typed(["python", "train_ranker.py", *flags_of(places), *flags])


if __name__ == "__main__":
    sys.exit(run_main(main, ["python", *sys.argv]))
