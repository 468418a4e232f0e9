"""`llamarec report`: a run as a page, finished or running."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.names import find_run
from llamarec.cli.entry_point import missing_package
from llamarec.cli.output import print_json
from llamarec.command import typed
from llamarec.errors import EXIT_FINISHED
from llamarec.vocabulary import Experiment

SUMMARY = "Write a run's report.html: curves, interruptions, checkpoints, test figures with intervals, a few users."

_EPILOG = """\
RUN is a data set code or a folder. A run of the ranker writes
its report by itself when it ends; while it trains, this shows
it as far as it is logged and saved. The page is one file and
needs no network.

  llamarec report beauty
  llamarec report runs/mine --output mine.html
"""


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "report", SUMMARY, _EPILOG)
    parser.add_argument("run_name", metavar="RUN", help="Data set code or folder.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Default: report.html in the run's folder.")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def place_of(text: str, root: Path) -> tuple[RunFolder, Experiment | None]:
    """The checkpoints that RUN means, and of whose ranker they are.

    Raises:
        CheckpointError: there is no such run; says which there are.
    """
    from llamarec.ranker.trained.locations import experiment_at, experiment_of, folder_of

    # A data set code, or a folder with a ranker's results: the checkpoints may lie elsewhere (--output_dir).
    for place in (Experiment(root, text).ranker, Path(text)):
        experiment = experiment_at(place)
        if experiment is not None:
            return folder_of(experiment), experiment
    folder = find_run(text, root)
    return folder, experiment_of(folder)


def execute(arguments: argparse.Namespace) -> int:
    """Writes the page and says where it lies."""
    from llamarec.report.page import write_report

    path = write_report(*place_of(arguments.run_name, arguments.experiment_root), arguments.output)
    if arguments.json:
        print_json({"report": path})
    else:
        print(path)
    return EXIT_FINISHED


def report_of(parsed: Any) -> str:
    """Where the page lies, or why there is none: it cannot fail a training. Only the first process writes it.

    Args:
        parsed: The training's command line.
    """
    training, experiment = parsed.training, parsed.experiment
    if training.process_index:
        return ""
    try:
        # Here: drawing takes a second to load, and may be broken where training is not.
        from llamarec.report.page import write_report

        return str(write_report(RunFolder(Path(training.output_dir)), experiment))
    except Exception as error:
        again = typed(["llamarec", "report", str(experiment.ranker)])
        missing = missing_package(error)
        if missing is not None:
            return f"not written: {missing.problem}; {missing.hint}; then {again}"
        return f"could not be written ({type(error).__name__}: {error}); again: {again}"
