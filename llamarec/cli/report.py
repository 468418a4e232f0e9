"""`llamarec report`: a page about a finished or a running run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.cli.arguments import Subparsers, add_common_arguments, add_verb
from llamarec.cli.checkpoints.names import find_run
from llamarec.cli.entry_point import missing_package
from llamarec.cli.output import print_json
from llamarec.command import typed
from llamarec.errors import EXIT_FINISHED
from llamarec.vocabulary import Experiment

if TYPE_CHECKING:
    from llamarec.ranker.options.command_line import Parsed

SUMMARY = "Write a run's report.html: curves, interruptions, checkpoints, test figures with intervals, sample users."

_EPILOG = """\
RUN is a data set code or a folder. Training the ranker ends with
a report; before the end, this command writes one from what has
been logged and saved so far. The page is one file and loads
nothing from the network.

  llamarec report beauty
  llamarec report runs/mine --output mine.html
"""


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "report", SUMMARY, _EPILOG)
    parser.add_argument("run_name", metavar="RUN", help="Data set code or folder.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="File to write (default: RUN's report.html).")
    add_common_arguments(parser)
    parser.set_defaults(execute=execute)


def find_run_and_experiment(text: str, root: Path) -> tuple[RunFolder, Experiment | None]:
    """The checkpoints that RUN means and their experiment, which is None for a user's own Trainer.

    Raises:
        CheckpointError: there is no such run; the error lists those that exist.
    """
    from llamarec.ranker.trained.locations import experiment_at, experiment_of, folder_of

    # A data set code, or a folder with a ranker's results. Its checkpoints may be elsewhere (--output_dir).
    for results in (Experiment(root, text).ranker, Path(text)):
        experiment = experiment_at(results)
        if experiment is not None:
            return folder_of(experiment), experiment

    folder = find_run(text, root)
    return folder, experiment_of(folder)


def execute(arguments: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    from llamarec.report.page import write_report

    path = write_report(*find_run_and_experiment(arguments.run_name, arguments.experiment_root), arguments.output)
    if arguments.json:
        print_json({"report": path})
    else:
        print(path)
    return EXIT_FINISHED


def report_of(parsed: Parsed) -> str:
    """Writes the report of a finished training; returns its path, or why it could not be written.

    A report never fails a training. Only the first process writes it; the others return an empty text.

    Args:
        parsed: The training's command line.
    """
    training, experiment = parsed.training, parsed.experiment
    if training.process_index:
        return ""

    try:
        # Imported here because plots take a second to load, and may fail on a machine that can train.
        from llamarec.report.page import write_report

        return str(write_report(RunFolder(Path(str(training.output_dir))), experiment))
    except Exception as error:
        again = typed(["llamarec", "report", str(experiment.ranker)])
        missing = missing_package(error)
        if missing is not None:
            return f"not written: {missing.problem}; {missing.hint}; then {again}"
        return f"could not be written ({type(error).__name__}: {error}); to try again: {again}"
