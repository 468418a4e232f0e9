"""One measurement in a process of its own, so that its memory is its own and a failure is no other's.

    python -m benchmarks.standard.measure --folder experiments/standard --set beauty --split temporal \
        --system first-stage --seed 1
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.harness.machine import describe
from benchmarks.harness.memory import Peak
from benchmarks.harness.processor import processor_seconds
from benchmarks.harness.report import commit
from benchmarks.standard.protocol import Fit, Fitted, System, label_ranks
from benchmarks.standard.results import (
    Result,
    Row,
    Task,
    code_of_measurement,
    loaded_code,
    row_of,
    versions_of,
    write_result,
)
from benchmarks.standard.sets import SETS, SPLITS, counts_of, digests_of, prepared_set
from benchmarks.standard.systems import MODULES, system_of
from llamarec.data.config import default_data_root
from llamarec.data.prepared import PreparedData
from llamarec.errors import EXIT_USAGE, LlamarecError


def main(argv: list[str] | None = None) -> int:
    """Measures and writes the file."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    task = Task(options.set, options.split, options.system, options.seed)

    try:
        data = prepared_set(task.set_code, task.split, options.folder, options.data_root)
        result = measure(task, data, options.max_epochs or None, options.threads)
    except LlamarecError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE

    write_result(task.path(options.folder), result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data_root", default=default_data_root())
    parser.add_argument("--set", choices=tuple(SETS), required=True)
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--system", choices=tuple(MODULES), required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max_epochs", type=int, default=0, help="0: as many as the system asks for")
    return parser


def measure(task: Task, data: PreparedData, max_epochs: int | None, threads: int) -> Result:
    """Fits a system and ranks the label of every test user."""
    system = system_of(task.system)
    system.needs()
    code = loaded_code()

    with Peak() as peak, tempfile.TemporaryDirectory() as scratch:
        started = processor_seconds()
        fitted = system.fit(data, Fit(seed=task.seed, folder=Path(scratch), max_epochs=max_epochs))
        fit_seconds = processor_seconds() - started
        rows = _rows(fitted, system, data)

    return Result(
        rows=rows,
        notes=dict(fitted.notes),
        fit_seconds=fit_seconds,
        peak_bytes=peak.value,
        counts=counts_of(data),
        digests=digests_of(data),
        code=code_of_measurement(code, loaded_code()),
        versions=versions_of(system),
        max_epochs=max_epochs or 0,
        machine=f"{describe('torch', 'numpy', 'polars')}; {threads} thread{'s' if threads > 1 else ''}",
        commit=commit(),
    )


def _rows(fitted: Fitted, system: System, data: PreparedData) -> dict[str, Row]:
    rows = {}
    # A part that a set does not allow has no scorer.
    for name in (name for name in system.titles if name in fitted.scorers):
        started = processor_seconds()
        ranks = label_ranks(fitted.scorers[name], data, "test")
        rows[name] = row_of(ranks, processor_seconds() - started, fitted.seconds.get(name, 0.0))
    return rows


if __name__ == "__main__":
    sys.exit(main())
