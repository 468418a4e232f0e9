"""`llamarec compare`: runs side by side."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.output import print_json, print_pairs, print_table, print_wrapped
from llamarec.cli.report import find_run_and_experiment
from llamarec.errors import EXIT_FINISHED, ConfigError

if TYPE_CHECKING:
    from llamarec.report.compare import ComparedRuns, Side
    from llamarec.report.seeds import SeedGroup

SUMMARY = "Compare tested runs with confidence intervals, and show which options differ."

_EPILOG = """\
RUN is a data set code or a folder. All runs must use the same
data set; only users that every run tested are counted. Each run
is compared with the first. Intervals are those of the difference
(95%, paired bootstrap over users). Runs that differ only in
their seeds are also averaged.

  llamarec compare first/llm/beauty second/llm/beauty
  llamarec compare first/llm/beauty second/llm/beauty --output both.html
"""


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "compare", SUMMARY, _EPILOG)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="Two or more data set codes or folders.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Also write a page with tables and plots.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Prints the tables, and writes the page if there is an --output."""
    names = list(dict.fromkeys(arguments.runs))
    if len(names) < 2:
        raise ConfigError(
            "llamarec compare: there is only one run to compare",
            expected="two or more different runs",
            found=", ".join(arguments.runs),
            hint=f"name another run, or: llamarec report {names[0]}",
        )

    from llamarec.report.compare import compare_runs
    from llamarec.report.compare_page import write_comparison
    from llamarec.report.run import read_run

    runs = {name: read_run(*find_run_and_experiment(name, arguments.experiment_root)) for name in names}
    comparison = compare_runs(runs)
    if arguments.output is not None:
        write_comparison(comparison, runs, arguments.output)

    if arguments.json:
        print_json(comparison.as_dict())
        return EXIT_FINISHED

    _print(comparison)
    if arguments.output is not None:
        print(f"page  {arguments.output}")
    return EXIT_FINISHED


def _print(comparison: ComparedRuns) -> None:
    from llamarec.report.compare import shown_columns, without_letters

    users = f"{comparison.num_users:,}"
    print_wrapped(f"{users} test users in common; overall figures (an item that was not proposed counts as 0)")
    for number, side in enumerate(comparison.sides, start=1):
        print_wrapped(f"{number}  {side.name} ({side.num_covered:,} of {users} next items proposed)", indent=2)
    if not comparison.same_candidates:
        print_wrapped("The runs have different candidates, so part of each difference is the first stage's.")
    if text := without_letters(comparison.sides):
        print_wrapped(text)

    columns = shown_columns(comparison.sides)
    for metric in comparison.sides[0].ranker:
        print(metric)
        rows = [_row(number, side, metric, columns) for number, side in enumerate(comparison.sides, start=1)]
        print_table(("run", *columns.values(), "to run 1", "95% interval"), rows)

    for group in comparison.groups:
        _print_group(group, columns)
    _print_options(comparison)


def _row(number: int, side: Side, metric: str, columns: Mapping[str, str]) -> tuple[str, ...]:
    figures = [side.figures[name][metric] for name in columns]
    difference = side.differences.get(metric)
    shown = ("", "") if difference is None else _with_interval(*difference)
    return (str(number), *(f"{value:.4f}" for value in figures), *shown)


def _print_group(group: SeedGroup, columns: Mapping[str, str]) -> None:
    runs = ", ".join(map(str, group.runs))
    print_wrapped(f"Runs {runs} differ only in their seeds. Mean and standard deviation over them:")

    rows = []
    for metric in group.gains:
        means, deviations = zip(*(group.columns[name][metric] for name in columns), strict=True)
        rows.append((metric, *(f"{mean:.4f}" for mean in means)))
        rows.append(("", *(f"+-{deviation:.4f}" for deviation in deviations)))
    print_table(("", *columns.values()), rows, left=("",))

    rows = [(metric, *_with_interval(*gain)) for metric, gain in group.gains.items()]
    gain = f"ranker - {columns['retriever']}"
    print_table((gain, "mean", "95% interval"), rows, left=(gain,))


def _print_options(comparison: ComparedRuns) -> None:
    if not comparison.hyperparameters:
        print("no option differs")
        return

    pairs = {name: "  |  ".join(map(str, values)) for name, values in comparison.hyperparameters.items()}
    print_pairs("options that differ (run 1 | run 2 ...)", pairs)


def _with_interval(difference: float, low: float, high: float) -> tuple[str, str]:
    return f"{difference:+.4f}", f"{low:+.4f} {high:+.4f}"
