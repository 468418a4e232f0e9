"""The ranker on a GPU: speed and memory of a 7B model, exactness of resuming, recovery from out of memory.

    python -m benchmarks.gpu --data_root data
    python -m benchmarks.gpu --parts resume oom
    python -m benchmarks.gpu --device cpu --shape tiny    # tries the script out; says nothing about speed

Needs one CUDA device (80 GB for everything; what does not fit says so) and no download: weights are random, in the
shape of Llama 2 7B. Every part takes less than ten minutes on an H100. Without CUDA nothing is measured.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from benchmarks.gpu import oom, resume, speed
from benchmarks.gpu.bench import Bench, Measure, take_all
from benchmarks.gpu.drawn import LLAMA2_7B, SMALL, TINY, Shape, lengths_in_data
from benchmarks.harness.machine import describe
from benchmarks.harness.report import ROOT, Row, commit, write_rows
from llamarec.files import write_text

RESULT: Final = ROOT / "benchmarks" / "results" / "gpu.md"
PARTS: Final[dict[str, Callable[[], list[Measure]]]] = {
    "speed": speed.measures,
    "resume": resume.measures,
    "oom": oom.measures,
}
# The large model, and the one with which only exactness is looked at.
SHAPES: Final[dict[str, tuple[Shape, Shape]]] = {"llama2-7b": (LLAMA2_7B, SMALL), "tiny": (TINY, TINY)}
_COMMAND: Final = "python -m benchmarks.gpu --data_root data"
_NOT_MEASURED: Final = "not measured"
_COUNTED_PROMPTS: Final = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints a row at a time, and writes the page; 1 where something failed."""
    options = _options(argv)
    if options.device == "cuda":
        # Before the device is touched. One of several: the Trainer would spread every batch over all.
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
        os.environ.setdefault(*resume.WORKSPACE)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"nothing was measured: torch finds no CUDA device. On a machine with one: {_COMMAND}")
        _write_unmeasured(options)
        return 0
    bench = _bench(options)
    head, rows = _head(bench, options), {part: _unmeasured_rows(part) for part in PARTS}
    print(f"{head}\n")
    for part in options.parts:
        done: list[Row] = []
        for found in take_all(bench, PARTS[part]()):
            done += found
            rows[part] = [*done, *rows[part][len(done) :]]
            print("\n".join(_printed(row) for row in found), flush=True)
            # At once: a device that is lost takes the process with it.
            _write(options, head, [row for of_part in rows.values() for row in of_part])
    return int(any(_is_failed(row) for of_part in rows.values() for row in of_part))


def _bench(options: argparse.Namespace) -> Bench:
    shape, small = SHAPES[options.shape]
    if options.shape == TINY.name:
        return Bench(options.device, shape, small, warm_steps=1, timed_steps=1)
    return Bench(options.device, shape, small, lengths_in_data(shape, _COUNTED_PROMPTS, options.data_root))


def _unmeasured_rows(part: str) -> list[Row]:
    return [row for measure in PARTS[part]() for row in measure.rows]


def _is_failed(row: Row) -> bool:
    return math.isnan(row.value) and row.note.startswith("failed")


def _printed(row: Row) -> str:
    return f"{row.name:<40} {_NOT_MEASURED} ({row.note})" if math.isnan(row.value) else row.line()


# ---- The page ----


def _head(bench: Bench, options: argparse.Namespace) -> str:
    device = "no GPU: a trial of the script, whose speeds mean nothing"
    if bench.is_gpu:
        properties = torch.cuda.get_device_properties(0)
        device = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
    lengths = "drawn" if bench.counted is None else "as in Beauty"
    prompts = f"lengths {lengths}, mean {bench.shape.mean_tokens}, 90% below {bench.shape.p90_tokens} tokens"
    return (
        f"{device}; {describe('torch', 'transformers', 'peft', 'bitsandbytes')}. At commit {commit()}.\n\n"
        f"Random weights in the shape of {options.shape}; prompts of random tokens, {prompts}."
    )


def _write(options: argparse.Namespace, head: str, rows: list[Row]) -> None:
    # A trial leaves the page of a real device alone.
    output = options.output or (RESULT if options.device == "cuda" else None)
    if output is not None:
        write_text(output, _page(head, rows))
    if options.json:
        write_rows(options.json, rows)


def _write_unmeasured(options: argparse.Namespace) -> None:
    output, rows = options.output or RESULT, [row for part in PARTS for row in _unmeasured_rows(part)]
    if options.json:
        write_rows(options.json, rows)
    head = f"**Not measured yet**: this page is written on a machine with a CUDA device by\n\n    {_COMMAND}"
    if output.is_file() and "**Not measured yet**" not in output.read_text(encoding="utf-8"):
        print(f"{output.name} keeps what was measured before")
        return
    write_text(output, _page(head, rows))


def _page(head: str, rows: list[Row]) -> str:
    lines = ["# The ranker on a GPU", "", f"`{_COMMAND}`", "", head, "", "| figure | value | goal | | note |"]
    lines += ["|---|---|---|---|---|", *(_line(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    failed, unknown = _is_failed(row), math.isnan(row.value)
    value = "failed" if failed else _NOT_MEASURED if unknown else f"{row.value:.3g}"
    state = "" if row.met is None or (unknown and not failed) else "met" if row.met else "short"
    note = row.note.replace("|", "\\|")
    return f"| {row.name} | {value} | {row.goal} | {state} | {note} |"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data", help="Where Beauty may be, for the lengths of its prompts.")
    parser.add_argument("--output", type=Path, help="Page to write (default: benchmarks/results/gpu.md on a GPU).")
    parser.add_argument("--json", type=Path, help="Rows for programs.")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", choices=list(SHAPES), default=LLAMA2_7B.name)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
