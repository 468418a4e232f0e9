"""The report at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamarec.checkpoints.layout import RunFolder
from llamarec.command import typed


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
        return f"could not be written ({type(error).__name__}: {error}); again: {again}"
