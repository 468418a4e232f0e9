"""Trains the retriever (LRURec) and writes the top candidates of every user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamarec.cli.arguments import Parser, add_dataclass_arguments, dataclass_from
from llamarec.cli.fast_help import importing
from llamarec.cli.prepare import add_prepare_again
from llamarec.command import TRAIN_RANKER, TRAIN_RETRIEVER, command_of, flags_of, given_in, program_of, typed
from llamarec.data.config import DataConfig
from llamarec.files import read_json
from llamarec.ranker.options.config import RankerConfig
from llamarec.retriever.config import RetrieverConfig, defaults_for
from llamarec.vocabulary import DESCRIPTION

if TYPE_CHECKING:
    from llamarec.retriever.train import RetrieverReport


def parser() -> Parser:
    """The parser of the command line."""
    whole = Parser(prog=program_of(TRAIN_RETRIEVER), description=__doc__)
    add_dataclass_arguments(whole, DataConfig, title="data")
    add_dataclass_arguments(whole, RetrieverConfig, title="retriever")
    add_prepare_again(whole)
    return whole


def main(argv: Sequence[str]) -> int:
    """Runs the training; `argv` are the flags, see `--help`."""
    command_line = parser()
    given = command_line.parse_args(argv)
    # The defaults of the data set replace those of the dataclass; a given flag replaces both.
    command_line.set_defaults(**defaults_for(given.dataset_code))
    arguments = command_line.parse_args(argv)
    data_config = dataclass_from(DataConfig, arguments)
    config = dataclass_from(RetrieverConfig, arguments)

    with importing():
        from rich.console import Console

        from llamarec.data.prepare import resolve_options
        from llamarec.hardware import has_accelerator
        from llamarec.retriever.train import print_report, train_retriever

    # Without markup: paths may contain what rich reads as such.
    console = Console(markup=False, emoji=False)
    data_config = resolve_options(data_config, given_in(argv))
    report = train_retriever(data_config, config, console, prepare_again=arguments.prepare_again)
    print_report(report, console)
    console.print(f"\ncandidates  {data_config.experiment.candidates}", soft_wrap=True)

    step = next_step(report, data_config)
    if step.endswith("--restart"):
        ranker = data_config.experiment.ranker
        console.print(
            f"ranker      the one in {ranker} was trained on the previous retriever. Retrain it.", soft_wrap=True
        )
    console.print(f"next        {step}", soft_wrap=True, markup=False, highlight=False)

    is_command = step.startswith(typed(command_of(TRAIN_RANKER)))
    if is_command and "--llm_base_model" not in step and not has_accelerator():
        small = "--llm_base_model smollm2-135m --prompt_template letter_last"
        console.print(
            f"            (without a GPU add {small}; for a quick trial --llm_base_model tiny)", soft_wrap=True
        )
    return 0


def next_step(report: RetrieverReport, data_config: DataConfig) -> str:
    """The ranker's command with every flag that the data and candidates need, or what prevents it."""
    uncovered = [split for split, count in report.num_covered.items() if not count]
    if uncovered:
        return f"train longer or on more data: the next item is a candidate of no {' or '.join(uncovered)} user"
    if report.ranker_candidates < 2:
        return "run this command with a larger --top_k: one candidate leaves nothing to rank"

    from llamarec.ranker.trained.retrain import retrain_command
    from llamarec.retriever.dependent_rankers import is_outdated

    # Later commands know the preparation options, and a table by its name.
    paths = DataConfig(data_config.name, data_config.data_root, data_config.experiment_root)
    few = {"num_candidates": report.ranker_candidates}
    changes = few if report.ranker_candidates < RankerConfig.num_candidates else {}

    before = read_json(data_config.experiment.ranker / DESCRIPTION)
    if before is not None and is_outdated(before, data_config.experiment):
        base_model = (before.get("config") or {}).get("llm_base_model")
        return retrain_command(
            data_config.experiment, **({"llm_base_model": base_model} if base_model else {}), **changes
        )

    flags = [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    return typed([*command_of(TRAIN_RANKER), *flags_of(paths), *flags])
