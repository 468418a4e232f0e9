"""`llamarec compare`: runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.output import print_json, print_pairs, print_table, print_wrapped
from llamarec.cli.report import place_of
from llamarec.errors import EXIT_FINISHED, ConfigError

SUMMARY = "Compare runs on the users that all of them tested, with intervals, and show which options differ."

_EPILOG = """\
RUN is a data set code or a folder; all are of one data set.
The first is what the others are compared with. Intervals are
of the difference (95%, paired bootstrap over users). Runs that
differ in their seeds only are also taken together.

  llamarec compare first/llm/beauty second/llm/beauty
  llamarec compare first/llm/beauty second/llm/beauty --output both.html
"""


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "compare", SUMMARY, _EPILOG)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="Data set codes or folders, two or more.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Write a page with table and plots too.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Prints the table, and writes the page where one is wanted."""
    names = list(dict.fromkeys(arguments.runs))
    if len(names) < 2:
        raise ConfigError(
            "llamarec compare: one run has nothing to be compared with",
            expected="two runs or more",
            found=", ".join(arguments.runs),
            hint=f"llamarec report {names[0]}, or name another run",
        )
    from llamarec.report.compare import compare_runs
    from llamarec.report.compare_page import write_comparison
    from llamarec.report.run import read_run

    runs = {name: read_run(*place_of(name, arguments.experiment_root)) for name in names}
    comparison = compare_runs(runs)
    if arguments.output is not None:
        write_comparison(comparison, runs, arguments.output)
    if arguments.json:
        print_json(comparison.as_dict())
    else:
        _print(comparison)
        if arguments.output is not None:
            print(f"page  {arguments.output}")
    return EXIT_FINISHED


def _print(comparison: Any) -> None:
    from llamarec.report.compare import without_letters

    print_wrapped(f"{comparison.num_users:,} test users in common; overall figures (a missed item counts as 0)")
    for number, side in enumerate(comparison.sides, start=1):
        covered = f"{side.num_covered:,} of {comparison.num_users:,} next items proposed"
        print_wrapped(f"{number}  {side.name} ({covered})", indent=2)
    if not comparison.same_candidates:
        print_wrapped("not the same candidates: part of a difference is the retrievers'")
    if text := without_letters(comparison.sides):
        print_wrapped(text)
    for metric in comparison.sides[0].ranker:
        print(metric)
        rows = []
        for number, side in enumerate(comparison.sides, start=1):
            figures = [column[metric] for column in side.figures.values()]
            difference = side.differences.get(metric)
            shown = ("", "") if difference is None else _shown(*difference)
            rows.append((str(number), *(f"{value:.4f}" for value in figures), *shown))
        print_table(("run", "retriever", "titles", "letters", "ranker", "to run 1", "95% interval"), rows)
    for group in comparison.groups:
        _print_group(group)
    if not comparison.hyperparameters:
        print("no option differs")
        return
    pairs = {name: "  |  ".join(map(str, values)) for name, values in comparison.hyperparameters.items()}
    print_pairs("options that differ (run 1 | run 2 ...)", pairs)


def _print_group(group: Any) -> None:
    runs = ", ".join(map(str, group.runs))
    print_wrapped(f"runs {runs} differ in their seeds only: mean over them, and standard deviation")
    rows = []
    for metric in group.gains:
        means, deviations = zip(*(column[metric] for column in group.columns.values()), strict=True)
        rows.append((metric, *(f"{mean:.4f}" for mean in means)))
        rows.append(("", *(f"+-{deviation:.4f}" for deviation in deviations)))
    print_table(("", *group.columns), rows, left=("",))
    rows = [(metric, *_shown(*gain)) for metric, gain in group.gains.items()]
    print_table(("ranker - retriever", "mean", "95% interval"), rows, left=("ranker - retriever",))


def _shown(difference: float, low: float, high: float) -> tuple[str, str]:
    return f"{difference:+.4f}", f"{low:+.4f} {high:+.4f}"
