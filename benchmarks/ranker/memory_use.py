"""Peak memory of a training step of 12 samples in float32: the recipe as published, or ours; in this process.

python -m benchmarks.ranker.memory_use ours --data_root data --dataset beauty
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, Literal

import torch

from benchmarks.harness.memory import Peak
from benchmarks.harness.report import ROOT
from benchmarks.ranker import published
from benchmarks.ranker.epoch import STEP
from benchmarks.ranker.product import our_model, our_trainer
from benchmarks.ranker.workload import Workload, load
from llamarec.ranker.options.config import SMOLLM2_135M

Way = Literal["theirs", "ours"]
WAYS: Final[tuple[Way, ...]] = ("theirs", "ours")


def main() -> None:
    """Prints the peak in bytes, as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--data_root", default="data")
    parser.add_argument("--dataset", default="beauty")
    parser.add_argument("--model", default=SMOLLM2_135M)
    options = parser.parse_args()
    print(peak_bytes(options.way, load(options.dataset, options.data_root, options.model)))


def peak_bytes(way: Way, workload: Workload) -> int:
    """Of this process's resident memory, its libraries and the model included."""
    with tempfile.TemporaryDirectory() as folder, Peak() as peak:
        (_train_ours if way == "ours" else _train_theirs)(workload, Path(folder))
    return peak.value


def peak_gb(way: Way, dataset: str, data_root: str, model: str = SMOLLM2_135M) -> float:
    """The same in a process of its own; infinite where it did not fit at all."""
    command = [sys.executable, "-m", "benchmarks.ranker.memory_use", way, "--dataset", dataset]
    command += ["--data_root", str(Path(data_root).resolve()), "--model", model]
    out = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    return float("inf") if out.returncode else int(out.stdout.splitlines()[-1]) / 1e9


def _train_ours(workload: Workload, folder: Path) -> None:
    our_trainer(workload, our_model(workload, torch.float32), folder, steps=1, dtype=torch.float32).train()


def _train_theirs(workload: Workload, folder: Path) -> None:
    prompts = published.training_prompts(workload, workload.order[:STEP])
    model = published.load_model(workload, torch.float32, attention="sdpa")
    published.make_trainer(
        workload, model, prompts, folder, micro_batch=STEP, accumulate=1, max_steps=1, use_cpu=True
    ).train()


if __name__ == "__main__":
    main()
