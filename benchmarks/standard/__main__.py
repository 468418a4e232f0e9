"""The field's standard comparison: every system on every set, by one protocol, beside the published figures.

python -m benchmarks.standard --data_root DATA              # hours; the same command continues after a stop
python -m benchmarks.standard --sets beauty --systems popularity item-knn transition-rule     # minutes
python -m benchmarks.standard --write                       # docs/benchmarks.md from what was measured, and from
                                                            # what it has of before
python -m benchmarks.standard --quick                       # a generated set, less than a minute
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.standard.merging import kept, merged
from benchmarks.standard.page import read_summary, rendered, write_page
from benchmarks.standard.results import ROOT
from benchmarks.standard.sets import QUICK, SETS, SPLITS
from benchmarks.standard.summary import Summary, summarised
from benchmarks.standard.sweep import Plan, Sweep
from benchmarks.standard.systems import MODULES
from benchmarks.standard.table import print_summary
from llamarec.data.config import default_data_root
from llamarec.errors import EXIT_FAILED, EXIT_KILLED, EXIT_USAGE, LlamarecError
from llamarec.files import write_text

_PAGE = ROOT / "docs" / "benchmarks.md"
_STORED = ROOT / "benchmarks" / "results" / "standard.json"
_QUICK_EPOCHS = 2


@dataclass(frozen=True)
class _Pages:
    page: Path
    stored: Path


def main(argv: list[str] | None = None) -> int:
    """Measures what is missing and prints the table, or writes the page."""
    options = _parser().parse_args(argv)
    console = Console(markup=False, emoji=False, highlight=False)
    pages = _pages(options)
    if options.render:
        write_text(pages.page, rendered(read_summary(pages.stored)))
        return 0

    try:
        with Sweep(_plan(options), console) as sweep:
            results = sweep.stored() if options.write else sweep.run()
            if not results:
                return EXIT_FAILED
            summary = summarised(results)
    except LlamarecError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        console.print("stopped: what was finished is stored; the same command continues")
        return EXIT_KILLED

    if options.write:
        summary = _with_before(summary, pages.stored, console)
        write_page(summary, pages.page, pages.stored)
    print_summary(summary, console)
    if options.write:
        console.print(f"\nwritten: {pages.page}, {pages.stored}", soft_wrap=True)
    return EXIT_FAILED if sweep.failed else 0


def _with_before(summary: Summary, stored: Path, console: Console) -> Summary:
    if not stored.exists():
        return summary
    before = read_summary(stored)
    for line in kept(summary, before):
        console.print(f"from the page of before: {line}", soft_wrap=True)
    return merged(summary, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.standard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sets = [code for code in SETS if code != QUICK]
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--systems", nargs="+", choices=tuple(MODULES), default=[], help="(default: all installed)")
    parser.add_argument("--seeds", type=int, default=3, help="of systems that are random")
    parser.add_argument("--data_root", default=default_data_root(), help="folder of raw files")
    parser.add_argument("--folder", type=Path, default=Path("experiments/standard"), help="of all that is written")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a generated set, two epochs, one seed")
    parser.add_argument("--write", action="store_true", help="measure nothing; put what is stored into the page")
    parser.add_argument(
        "--render", action="store_true", help="make the page again from the summary that --write stored"
    )
    parser.add_argument(
        "--accept_other_code",
        action="store_true",
        help="use results of other code or versions too (never of other data); they are named",
    )
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(
        sets=(QUICK,) if options.quick else tuple(options.sets),
        splits=tuple(options.splits),
        systems=tuple(options.systems),
        num_seeds=1 if options.quick else options.seeds,
        folder=options.folder,
        data_root=options.data_root,
        threads=options.threads,
        max_epochs=_QUICK_EPOCHS if options.quick else 0,
        accepts_other_code=options.accept_other_code,
    )


def _pages(options: argparse.Namespace) -> _Pages:
    if options.quick:
        return _Pages(options.folder / "benchmarks.md", options.folder / "standard.json")
    return _Pages(_PAGE, _STORED)


if __name__ == "__main__":
    sys.exit(main())
